from __future__ import annotations

import numpy as np
import pytest

from vsae_search.space import FeatureSpec
from vsae_search.subjects import summary
from vsae_search.subjects.features import build_features


def test_phi_matrix_by_hand():
    both_MM = np.array([[0.5, 0.2], [0.2, 0.2]])  # the second only with the first
    phi_MM = summary.phi_matrix(both_MM)
    np.testing.assert_allclose(phi_MM, [[1, 0.5], [0.5, 1]])  # (0.2 - 0.1) / sqrt(0.25 * 0.16)


def test_achieved_counts_the_fixed_sample():
    features = build_features(FeatureSpec(count=3, probability=(0.4, 0.2, 0.1)))
    sample = np.concatenate(list(summary.fixed_sample(features, "f", "summary"))) > 0
    got = summary.achieved(features, "f")
    assert got["sample_rows"] == len(sample) == 100_000
    np.testing.assert_allclose(got["marginals"], sample.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(got["phi"], np.corrcoef(sample.T), atol=1e-5)
    assert got["l0"] == pytest.approx(sample.sum(axis=1).mean())
    assert summary.achieved(features, "f") == got


def test_no_matrix_for_very_many_features(monkeypatch):
    features = build_features(FeatureSpec(count=3, probability=0.3))
    full = summary.achieved(features, "f")
    monkeypatch.setattr(summary, "_LARGEST_MATRIX", 2)
    short = summary.achieved(features, "f")
    assert short == {**full, "phi": None, "l0": pytest.approx(full["l0"])}
