from __future__ import annotations

import numpy as np
import pytest

from vsae_search.subjects.superposition import dimensionality, features_per_dimension, interference


def polygon(corners: int, length: float = 1.0) -> np.ndarray:
    angle = 2 * np.pi * np.arange(corners) / corners
    return length * np.stack([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("W_DM", "expected"),
    [
        (np.eye(3), 1.0),
        (np.array([[1.0, -1.0]]), 1 / 2),
        (polygon(3), 2 / 3),
        (polygon(5, 1.7), 2 / 5),
        (np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1.0]]), 3 / 4),
    ],
)
def test_dimensionality_of_regular_shapes(W_DM, expected):
    np.testing.assert_allclose(dimensionality(W_DM), expected)


def test_dimensionality_equals_capacity_and_is_bounded_by_the_dimensions():
    W_DM = np.random.default_rng(0).standard_normal((5, 12))
    gram = W_DM.T @ W_DM
    capacity = np.diag(gram) ** 2 / (gram**2).sum(axis=1)  # Scherlis et al. 2022
    np.testing.assert_allclose(dimensionality(W_DM), capacity)
    assert dimensionality(W_DM).sum() <= 5 + 1e-9


def test_features_without_weight():
    W_DM = np.array([[2.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(dimensionality(W_DM), [1, 0])
    np.testing.assert_array_equal(interference(W_DM), [0, 0])
    assert features_per_dimension(W_DM) == 2.0


def test_interference_by_hand():
    W_DM = np.array([[1.0, 0.6], [0.0, 0.8]])
    np.testing.assert_allclose(interference(W_DM), [0.36, 0.36])
    np.testing.assert_allclose(interference(np.array([[2.0, -3.0]])), [9.0, 4.0])
