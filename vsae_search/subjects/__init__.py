"""What is explained: toy models of superposition, synthetic activations from known directions, language models."""

from vsae_search.subjects import directions, language_model, toy_model  # noqa: F401 - each registers its builder
from vsae_search.subjects.base import (
    Baseline,
    ComparesPredictions,
    FeatureGroup,
    GroundTruth,
    ReadsText,
    Rows,
    Spliced,
    Split,
    Subject,
)
from vsae_search.subjects.registry import build_subject
from vsae_search.subjects.width import width_of

__all__ = [
    "Baseline",
    "ComparesPredictions",
    "FeatureGroup",
    "GroundTruth",
    "ReadsText",
    "Rows",
    "Spliced",
    "Split",
    "Subject",
    "build_subject",
    "width_of",
]
