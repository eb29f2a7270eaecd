"""Spectral clustering of directions, with fixed seeds.

Shapes: A directions, D their dimension, C clusters, P coordinates of the spectral embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESTARTS = 4
_MAX_ITERATIONS = 50


def spectral_clusters(w_AD: NDArray[np.float64], num_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the cluster ``[A]`` of each unit row, from the affinity max(0, cos).

    Every row is its own neighbour with affinity 1, so that a row at right angles to all others has a degree too.

    Args:
        w_AD: Unit rows.
        num_clusters: Number of clusters, at most A.
        seed: Seed of the k-means starts.

    Reference: Ng, Jordan and Weiss, "On spectral clustering", 2001: leading eigenvectors of D^-1/2 W D^-1/2, rows
    brought to unit norm, k-means.
    """
    num_rows = len(w_AD)
    assert 1 <= num_clusters <= num_rows
    affinity_AA = np.maximum(w_AD @ w_AD.T, 0.0)
    root_A = np.sqrt(affinity_AA.sum(axis=1))
    affinity_AA /= np.outer(root_A, root_A)
    _, vectors_AP = eigh(affinity_AA, subset_by_index=(num_rows - num_clusters, num_rows - 1))
    norm_A = np.linalg.norm(vectors_AP, axis=1, keepdims=True)
    return k_means(vectors_AP / np.maximum(norm_A, 1e-12), num_clusters, seed=seed)


def k_means(points_AP: NDArray[np.float64], num_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the labels ``[A]`` of the best of four runs of Lloyd's algorithm from k-means++ starts.

    Reference: Arthur and Vassilvitskii, "k-means++", 2007.
    """
    generator = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(points_AP), dtype=np.int64), np.inf
    for _ in range(_RESTARTS):
        labels, cost = _lloyd(points_AP, _spread_start(points_AP, num_clusters, generator))
        if cost < best_cost:
            best, best_cost = labels, cost
    return best


def _spread_start(
    points_AP: NDArray[np.float64], num_clusters: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Choose starting centres: each next one with probability proportional to the squared distance to the others."""
    chosen = [int(generator.integers(len(points_AP)))]
    distance_A = np.full(len(points_AP), np.inf)
    while len(chosen) < num_clusters:
        distance_A = np.minimum(distance_A, np.square(points_AP - points_AP[chosen[-1]]).sum(axis=1))
        total = distance_A.sum()
        weights = distance_A / total if total > 0 else None  # all points coincide with a centre: any will do
        chosen.append(int(generator.choice(len(points_AP), p=weights)))
    return points_AP[chosen]


def _lloyd(points_AP: NDArray[np.float64], centres_CP: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """Alternate assignment and means until nothing moves; an empty cluster keeps its centre."""
    squares_A = np.square(points_AP).sum(axis=1)
    labels_A = np.full(len(points_AP), -1, dtype=np.int64)
    cost = np.inf
    for _ in range(_MAX_ITERATIONS):
        distance_AC = squares_A[:, None] - 2 * points_AP @ centres_CP.T + np.square(centres_CP).sum(axis=1)
        nearest_A = distance_AC.argmin(axis=1)
        cost = float(distance_AC.min(axis=1).sum())
        if np.array_equal(nearest_A, labels_A):
            break
        labels_A = nearest_A
        member_CA = (labels_A == np.arange(len(centres_CP))[:, None]).astype(np.float64)
        size_C = member_CA.sum(axis=1)
        mean_CP = member_CA @ points_AP / np.maximum(size_C, 1)[:, None]
        centres_CP = np.where(size_C[:, None] > 0, mean_CP, centres_CP)
    return labels_A, cost
