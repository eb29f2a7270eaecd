"""Could two searches have found such different frontiers by luck? A permutation test that exchanges their trials.

Replicates of a configuration say how much training varies, not what another search would have found. Where two searches
differ in nothing but their seeds, a trial of one might as well have come from the other: dealing all trials out anew
gives frontiers that were as likely as those observed. A sampler that learns makes trials depend on each other, which
this leaves out; its searches lie closer together than dealt ones, so that p is rather too large than too small.

All endpoints are dealt together, so that the smallest p of a deal can be compared with that of other deals: this
corrects for their number (single-step minP).

Shapes: N and M trials, E endpoints, P deals (the observed one first).

Reference: Westfall and Young 1993, algorithm 2.5; Phipson and Smyth 2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.dominance import as_points, finite_rows
from vsae_search.frontier.hypervolume import hypervolume
from vsae_search.frontier.staircase import attained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from vsae_search.frontier.hypervolume import Point

NUM_DEALT = 999
_TIE = 1e-9


def search_p(
    first_N2: ArrayLike,
    second_M2: ArrayLike,
    reference: Point,
    *,
    ideal: Point | None = None,
    l0s: Sequence[float] = (),
    seed: int = 0,
) -> NDArray[np.float64]:
    """Two-sided p of the difference of two searches, corrected for the number of endpoints.

    Args:
        first_N2: (L0, delta_ce) of the completed trials of the first search.
        second_M2: The same of the second.
        reference: Reference point of the hypervolume; an L0 that is not attained counts as its delta_ce.
        ideal: Ideal point.
        l0s: Places at which the staircases are read.
        seed: Of the deals.

    Returns:
        One p per endpoint: hypervolume, then each matched L0; shape [E]. All are 1 where a search has no trial.
    """
    first, second = (points[finite_rows(points)] for points in (as_points(first_N2), as_points(second_M2)))
    count = len(first)
    if not (count and len(second)):
        return np.ones(1 + len(l0s))
    pooled = np.concatenate([first, second])

    def size(order: NDArray[np.int64]) -> NDArray[np.float64]:
        a, b = (_endpoints(pooled[part], reference, ideal, l0s) for part in (order[:count], order[count:]))
        return np.abs(a - b)

    generator = np.random.default_rng(seed)
    orders = [np.arange(len(pooled)), *(generator.permutation(len(pooled)) for _ in range(NUM_DEALT))]
    p_PE = _shares(np.stack([size(order) for order in orders]))
    corrected_E: NDArray[np.float64] = (p_PE.min(axis=1)[:, None] <= p_PE[0]).mean(axis=0)
    return corrected_E


def _shares(sizes_PE: NDArray[np.float64]) -> NDArray[np.float64]:
    """For every deal and endpoint the share of deals whose difference is at least as large."""
    ascending_PE = np.sort(sizes_PE, axis=0)
    smaller_PE = np.stack(
        [np.searchsorted(ordered, own - _TIE) for ordered, own in zip(ascending_PE.T, sizes_PE.T, strict=True)], axis=1
    )
    shares_PE: NDArray[np.float64] = 1 - smaller_PE / len(sizes_PE)
    return shares_PE


def _endpoints(
    points_N2: NDArray[np.float64], reference: Point, ideal: Point | None, l0s: Sequence[float]
) -> NDArray[np.float64]:
    area = hypervolume(points_N2, reference, ideal=ideal).normalised
    return np.array([area, *np.minimum(attained(points_N2, list(l0s)), reference[1])])
