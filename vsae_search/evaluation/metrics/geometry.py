"""How the decoder rows lie to each other."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.base import Metric, MetricInfo, with_null
from vsae_search.evaluation.null import mean_scores, prefixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Values
    from vsae_search.evaluation.summary import Summary

_WORK = 1 << 33  # multiplications; beyond it only some latents are compared with all others
_BLOCK_NUMBERS = 1 << 22  # cosines held at once
_SEED = 7


def cosine_scores(w_AD: NDArray[np.float64]) -> dict[str, float]:
    """Return mean, nearest and largest |cos| of at least two unit rows.

    All rows are compared with all others as long as that is affordable, otherwise a fixed random choice of them.
    """
    num_latents, dimension = w_AD.shape
    compared = max(64, _WORK // (num_latents * dimension))
    rows = np.arange(num_latents)
    if compared < num_latents:
        rows = np.sort(np.random.default_rng(_SEED).choice(num_latents, size=compared, replace=False))
    total, nearest = 0.0, np.empty(len(rows))
    step = max(1, _BLOCK_NUMBERS // num_latents)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        absolute_BA = np.abs(w_AD[block] @ w_AD.T)
        absolute_BA[np.arange(len(block)), block] = 0.0
        total += float(absolute_BA.sum())
        nearest[start : start + step] = absolute_BA.max(axis=1)
    return {
        "decoder_mean_abs_cos": total / (len(rows) * (num_latents - 1)),
        "decoder_nearest_abs_cos": float(nearest.mean()),
        "decoder_max_abs_cos": float(nearest.max()),
    }


@lru_cache(maxsize=512)
def null_cosines(num_latents: int, dimension: int) -> dict[str, float]:
    """Return the mean scores of random dictionaries; cached, callers must not change it."""
    return mean_scores(cosine_scores, num_latents, dimension, num_features=num_latents)


class Geometry(Metric):
    """Cosines between the decoder rows of different alive latents, with those of random dictionaries beside them.

    Latents that mix features that occur together are more alike than latents that do not: the mean is smallest near
    the right L0. Left out with fewer than two alive latents. Above 2^33 multiplications a fixed random choice of
    latents is compared with all others.

    Reference: "Sparse but Wrong", arXiv 2508.16560 (decoder cosines as an unsupervised guide to the right L0).
    """

    infos = with_null(
        MetricInfo("decoder_mean_abs_cos", "1", "lower", "Mean |cos| over all pairs of alive decoder rows."),
        MetricInfo(
            "decoder_nearest_abs_cos", "1", "lower", "Mean over alive latents of the largest |cos| to another one."
        ),
        MetricInfo("decoder_max_abs_cos", "1", "lower", "Largest |cos| of any pair of alive decoder rows."),
    )

    def result(self, summary: Summary) -> Values:
        """Return the cosines of the alive latents."""
        if summary.num_alive < 2:
            return {}
        found = cosine_scores(summary.w_AD)
        return {**found, **prefixed(null_cosines(*summary.w_AD.shape))}
