"""Clusters of directions, and how many of them there are.

Shapes: A directions, P coordinates, C clusters, S sampled directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.clustering import k_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERS = (2, 3, 4, 6, 8, 12, 16, 20)
"""Numbers of clusters that are tried."""
_FITTED, _SCORED = 2048, 1000


def principal_axes(
    unit_AD: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [D], the principal axes [D, D] by falling variance, and the variances [D].

    Only a D x D matrix is formed.
    """
    mean_D = unit_AD.mean(axis=0, dtype=np.float64)
    second_DD = (unit_AD.T @ unit_AD).astype(np.float64) / len(unit_AD)
    variance_D, axes_DD = np.linalg.eigh(second_DD - np.outer(mean_D, mean_D))
    return mean_D, axes_DD[:, ::-1], np.maximum(variance_D[::-1], 0.0)


def silhouette(points_SP: NDArray[np.float64], label_S: NDArray[np.int64]) -> float:
    """Return the mean silhouette width (b - a) / max(a, b): a the mean distance within, b to the nearest other cluster.

    A point that is alone in its cluster counts 0.

    Reference: Rousseeuw, "Silhouettes", 1987.
    """
    labels, member_S = np.unique(label_S, return_inverse=True)
    if len(labels) < 2:
        return 0.0
    squares_S = np.square(points_SP).sum(axis=1)
    distance_SS = np.sqrt(np.maximum(squares_S[:, None] + squares_S - 2 * points_SP @ points_SP.T, 0.0))
    np.fill_diagonal(distance_SS, 0.0)
    one_hot_SC = np.eye(len(labels))[member_S]
    size_C, total_SC = one_hot_SC.sum(axis=0), distance_SS @ one_hot_SC
    rows_S = np.arange(len(points_SP))
    inside_S = total_SC[rows_S, member_S] / np.maximum(size_C[member_S] - 1, 1)
    mean_SC = total_SC / size_C
    mean_SC[rows_S, member_S] = np.inf
    outside_S = mean_SC.min(axis=1)
    larger_S = np.maximum(inside_S, outside_S)
    width_S = np.where(
        (size_C[member_S] > 1) & (larger_S > 0), (outside_S - inside_S) / np.maximum(larger_S, 1e-300), 0
    )
    return float(width_S.mean())


def cluster(points_AP: NDArray[np.float64], seed: int) -> tuple[NDArray[np.int64], float]:
    """Cluster points by k-means with the number of clusters that has the largest silhouette; return it with them.

    The number is chosen on up to 2048 points, with the silhouette of up to 1000 of them.

    Args:
        points_AP: At least three points.
        seed: Seed of the draws and of the starts.
    """
    generator = np.random.default_rng([seed, 7])
    sample = generator.permutation(len(points_AP))[:_FITTED]
    points_SP = points_AP[sample]
    scores = {
        number: silhouette(points_SP[:_SCORED], k_means(points_SP, number, seed=seed)[:_SCORED])
        for number in NUMBERS
        if number < len(points_SP)
    }
    best = max(scores, key=lambda number: (scores[number], -number))
    return k_means(points_AP, best, seed=seed), scores[best]
