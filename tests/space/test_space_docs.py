"""The guide to the search-space file names every key there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from vsae_search.space import features, model, sections, subjects, text

GUIDE = (Path(__file__).parents[2] / "docs" / "search_space.md").read_text()
SECTIONS = [
    model.SearchSpace,
    subjects.ToyModelSubject,
    subjects.DirectionsSubject,
    subjects.LanguageModelSubject,
    text.PythonStdlibText,
    text.DatasetText,
    text.FilesText,
    text.TokensText,
    features.FeatureSpec,
    features.FeatureSet,
    features.CopulaSpec,
    sections.ActivationsSpec,
    sections.TrainingSpec,
    sections.SearchSpec,
    sections.ReferencePoint,
    sections.ResourcesSpec,
    sections.TrackingSpec,
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_has_a_row(section):
    missing = [name for name in section.model_fields if f"| `{name}` |" not in GUIDE]
    assert not missing
