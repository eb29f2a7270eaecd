"""How far the cloud of decoder directions is from a Gaussian one.

Shapes: N points, D their dimension, A alive latents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from vsae_search.evaluation.base import Metric, MetricInfo, with_null
from vsae_search.evaluation.null import random_dictionaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Values
    from vsae_search.evaluation.summary import Summary

NEIGHBOURS = 4
MAX_COMPONENTS = 10
_POINTS_PER_COMPONENT = 8
_MAX_POINTS = 2048
_MIN_RADIUS = 1e-6  # whitened units; rows that agree to float32 would have an infinite density otherwise
_MIN_RELATIVE_VARIANCE = 1e-8
_SEED = 11


def knn_entropy(z_ND: NDArray[np.float64], neighbours: int = NEIGHBOURS) -> float:
    """Return the differential entropy of a sample in nats: psi(N) - psi(k) + log c_D + (D/N) sum log r_k.

    c_D is the volume of the unit ball and r_k the distance to the k-th nearest other point, at least 1e-6.

    Reference: Kozachenko and Leonenko, 1987; Kraskov, Stogbauer and Grassberger, 2004, equation 20.
    """
    num_points, dimension = z_ND.shape
    assert num_points > neighbours, "each point needs that many others"
    distance_NK, _ = cKDTree(z_ND).query(z_ND, k=neighbours + 1)
    radius_N = np.maximum(np.asarray(distance_NK)[:, -1], _MIN_RADIUS)
    log_ball = 0.5 * dimension * np.log(np.pi) - gammaln(0.5 * dimension + 1)
    return float(digamma(num_points) - digamma(neighbours) + log_ball + dimension * np.mean(np.log(radius_N)))


def cluster_entropy(w_AD: NDArray[np.float64]) -> float | None:
    """Return H_gauss - H of the directions on their leading principal components, in nats.

    The components are scaled to unit variance, which changes H and H_gauss alike and makes the estimate of H better.
    On D - 1 components at most: unit vectors fill no volume in D dimensions.

    Returns:
        ``None`` with fewer than 8 directions, or if they do not differ.
    """
    if len(w_AD) > _MAX_POINTS:
        w_AD = w_AD[np.random.default_rng(_SEED).choice(len(w_AD), size=_MAX_POINTS, replace=False)]
    num_points, dimension = w_AD.shape
    wanted = min(MAX_COMPONENTS, dimension - 1, num_points // _POINTS_PER_COMPONENT)
    if wanted < 1:
        return None
    centred_AD = w_AD - w_AD.mean(axis=0)
    variance_D, axes_DD = np.linalg.eigh(centred_AD.T @ centred_AD / (num_points - 1))
    variance, axes = variance_D[::-1][:wanted], axes_DD[:, ::-1][:, :wanted]
    usable = (variance > _MIN_RELATIVE_VARIANCE * variance[0]) & (variance > _MIN_RELATIVE_VARIANCE)
    if not usable.any():
        return None
    white_AP = centred_AD @ axes[:, usable] / np.sqrt(variance[usable])
    gaussian = 0.5 * white_AP.shape[1] * np.log(2 * np.pi * np.e)
    return float(gaussian - knn_entropy(white_AP))


@lru_cache(maxsize=512)
def null_cluster_entropy(num_latents: int, dimension: int) -> float | None:
    """Return the mean over random dictionaries."""
    values = [cluster_entropy(w_AD) for w_AD in random_dictionaries(num_latents, dimension, num_features=num_latents)]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


class GeomClusterEntropy(Metric):
    """H_gauss - H of the alive unit decoder rows, in nats: 0 for a Gaussian cloud, larger for tighter clusters.

    H is the nearest-neighbour estimate (k = 4) after projection on min(10, D - 1, A // 8) principal components,
    H_gauss the entropy of the Gaussian with the same covariance. With few latents the estimate is biased and unit
    vectors are no Gaussian cloud to begin with, so compare with the null, which shares both. A fixed random choice of
    2048 latents stands for more. Left out with fewer than 8 alive latents or if all point the same way.

    Reference: Li et al., "The Geometry of Concepts", arXiv 2410.19750, section 5.2; estimator of Kozachenko and
    Leonenko, 1987.
    """

    infos = with_null(
        MetricInfo("geom_cluster_entropy", "nats", "none", "H_gauss - H of the directions of the alive decoder rows.")
    )

    def result(self, summary: Summary) -> Values:
        """Return the entropy gap of the alive latents."""
        own = cluster_entropy(summary.w_AD)
        if own is None:
            return {}
        null = null_cluster_entropy(*summary.w_AD.shape)
        found: Values = {"geom_cluster_entropy": own}
        if null is not None:
            found["null_geom_cluster_entropy"] = null
        return found
