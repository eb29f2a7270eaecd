"""Pairs true features with latents by direction.

Shapes: M represented features, A alive latents, K = min(M, A) matched pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from numpy.typing import NDArray


def similarity(cosine_MA: NDArray[np.float64], *, signed: bool) -> NDArray[np.float64]:
    """Return how well each latent can stand for each feature.

    A latent of a non-negative code that points away from a feature cannot represent it, so the sign counts; two
    features that share an axis in opposite directions (antipodal pairs are what anticorrelation leads to) would be
    confused otherwise. For a signed code the absolute value is taken.
    """
    return np.abs(cosine_MA) if signed else cosine_MA


def match(score_MA: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the one-to-one map with the largest total score: features ``[K]`` and their latents ``[K]``.

    Reference: the assignment problem, solved by the modified Jonker-Volgenant algorithm of SciPy; rectangular, so
    that the surplus on the longer side stays unmatched.
    """
    feature_K, latent_K = linear_sum_assignment(score_MA, maximize=True)
    return np.asarray(feature_K, dtype=np.int64), np.asarray(latent_K, dtype=np.int64)
