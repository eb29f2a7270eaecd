"""Permutation tests of several endpoints at once, and their correction over families.

Under the null hypothesis that two architectures' runs are exchangeable, swapping the two runs of a seed (paired), or
dealing all runs out anew (unpaired), gives data that were as likely as those observed. The p-value is the share of
such rearrangements, the observed one included, in which the statistic is at least as large. Few runs have few
rearrangements, so there is a smallest p that they can reach whatever the data: `smallest_p`.

A rearrangement moves a whole run, so all endpoints of a pair (hypervolume, delta_ce at several L0) move together.
Taking the largest statistic over the endpoints therefore corrects for their number at no cost in the smallest p,
where Holm's correction would multiply it by that number (step-down max-T).

Shapes: P rearrangements (the observed one first), R and S runs, E endpoints.

Reference: Westfall and Young 1993, algorithm 4.1; Holm 1979; Goeman and Solari 2010 (sequential rejection);
Phipson and Smyth 2010 (p-values of sampled rearrangements).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

MAX_EXACT = 20_000  # rearrangements that are all enumerated: of 14 pairs, or of 8 against 8 runs
NUM_SAMPLED = 20_000  # rearrangements drawn where there are more

_TIE = 1e-9  # statistics are sums in different order: closer than this they are equal


def smallest_p(num_runs: int, num_others: int, *, paired: bool) -> float:
    """Smallest two-sided p that so many runs can reach: 2 / 2^n paired, 2 / (2n choose n) unpaired of equal size.

    Groups of different size have no mirror image of the most extreme arrangement: 1 / (n + m choose n).

    Args:
        num_runs: Runs of the first group; paired, the number of pairs.
        num_others: Runs of the second group.
        paired: Whether runs belong together.
    """
    if not (num_runs and num_others):
        return 1.0
    total = 2**num_runs if paired else math.comb(num_runs + num_others, num_runs)
    floor = (2 if paired or num_runs == num_others else 1) / total
    return floor if total <= MAX_EXACT else max(floor, 1 / (NUM_SAMPLED + 1))


def paired_p(differences_RE: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p of every endpoint, corrected for their number, by flipping the signs of whole pairs.

    Args:
        differences_RE: First minus second architecture, per pair and endpoint; finite.
        seed: Of the draw of sign flips, where there are too many to enumerate.

    Returns:
        Array of shape [E].
    """
    differences_RE = np.asarray(differences_RE, dtype=np.float64)
    scale_E = _nonzero(np.abs(differences_RE).max(axis=0, initial=0))
    scaled_RE = differences_RE / scale_E  # squares of tiny numbers would vanish
    size_E = _nonzero(np.sqrt(len(scaled_RE) * (scaled_RE**2).sum(axis=0)))
    return _step_down(np.abs(_sign_flips(len(scaled_RE), seed) @ (scaled_RE / size_E)))


def unpaired_p(values_RE: ArrayLike, others_SE: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p of every endpoint, corrected for their number, by dealing the runs out anew.

    Args:
        values_RE: Values of the first architecture, per run and endpoint; finite.
        others_SE: Values of the second one.
        seed: Of the draw of arrangements, where there are too many to enumerate.

    Returns:
        Array of shape [E].
    """
    values_RE, others_SE = (np.asarray(values, dtype=np.float64) for values in (values_RE, others_SE))
    pooled_NE = np.concatenate([values_RE, others_SE])
    # Centred, the sum of the first group is proportional to the difference of the means.
    centred_NE = pooled_NE - pooled_NE.mean(axis=0)
    magnitude_E = np.abs(pooled_NE).max(axis=0, initial=0)
    centred_NE[:, np.abs(centred_NE).max(axis=0, initial=0) <= magnitude_E * 1e-15 * len(pooled_NE)] = 0
    scaled_NE = centred_NE / _nonzero(np.abs(centred_NE).max(axis=0, initial=0))
    size_E = _nonzero(np.sqrt((scaled_NE**2).sum(axis=0)))
    return _step_down(np.abs(_deals(len(values_RE), len(others_SE), seed) @ (scaled_NE / size_E)))


def holm(p_M: ArrayLike) -> NDArray[np.float64]:
    """Holm's correction of p-values of separate tests, shape [M].

    Reference: Holm 1979.
    """
    p_M = np.asarray(p_M, dtype=np.float64).reshape(-1)
    return np.array([p_E[0] for p_E in holm_families(p_M[:, None])], dtype=np.float64)


def holm_families(families: Sequence[ArrayLike] | NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Correct p-values over families that are each corrected within themselves.

    At each step every remaining p is multiplied with the number of families that still hold a hypothesis that is not
    rejected; a family leaves the count only when all of it is rejected. That is a sequential rejection procedure, so
    the probability of one false rejection anywhere stays below alpha whichever hypotheses are true. (Counting a
    family out at its first rejection would not do that: what is left of it may be true.) With one hypothesis per
    family it is Holm's correction.

    Args:
        families: Per family, the p-values of its hypotheses, corrected within it.

    Returns:
        Per family, corrected p-values: the smallest alpha at which each hypothesis is rejected.
    """
    inner = [np.asarray(p_E, dtype=np.float64).reshape(-1) for p_E in families]
    inner = [p_E for p_E in inner if len(p_E)]
    count = len(inner)
    largest = np.sort([p_E.max() for p_E in inner])
    gone = np.maximum.accumulate(np.append(0.0, np.arange(count, 0, -1) * largest))  # alpha at which j families left
    corrected: Iterator[NDArray[np.float64]] = iter(
        np.minimum(1.0, np.maximum(gone[:count], np.multiply.outer(p_E, np.arange(count, 0, -1))).min(axis=1))
        for p_E in inner
    )
    return [next(corrected) if np.size(p_E) else np.empty(0) for p_E in families]


def _step_down(statistics_PE: NDArray[np.float64]) -> NDArray[np.float64]:
    """Max-T: every endpoint against the largest statistic of itself and those observed to be smaller."""
    order = np.argsort(-statistics_PE[0], kind="stable")
    ordered_PE = statistics_PE[:, order]
    largest_PE = np.maximum.accumulate(ordered_PE[:, ::-1], axis=1)[:, ::-1]
    p_E = (largest_PE >= ordered_PE[0] - _TIE).mean(axis=0)
    result_E = np.empty(len(order))
    result_E[order] = np.maximum.accumulate(p_E)
    return result_E


@functools.lru_cache(maxsize=4)
def _sign_flips(num_pairs: int, seed: int) -> NDArray[np.float64]:
    """Signs of shape [P, R], not to be written to; the first row leaves everything as it is."""
    if 2**num_pairs <= MAX_EXACT:
        bits_PR = np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs) & 1
    else:
        bits_PR = np.random.default_rng(seed).integers(0, 2, (NUM_SAMPLED + 1, num_pairs))
        bits_PR[0] = 0
    signs_PR: NDArray[np.float64] = 1.0 - 2.0 * bits_PR.astype(np.float64)
    return signs_PR


@functools.lru_cache(maxsize=4)
def _deals(num_runs: int, num_others: int, seed: int) -> NDArray[np.float64]:
    """Which runs form the first group: ones in an array [P, R + S], not to be written to; the observed group first."""
    total = num_runs + num_others
    if math.comb(total, num_runs) <= MAX_EXACT:
        chosen_PR = np.array(list(itertools.combinations(range(total), num_runs)), dtype=np.int64)
    else:
        generator = np.random.default_rng(seed)
        chosen_PR = generator.permuted(np.tile(np.arange(total), (NUM_SAMPLED + 1, 1)), axis=1)[:, :num_runs]
        chosen_PR[0] = np.arange(num_runs)
    deals_PN = np.zeros((len(chosen_PR), total))
    np.put_along_axis(deals_PN, chosen_PR, 1.0, axis=1)
    return deals_PN


def _nonzero(scale_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ones for zeros: an endpoint without any difference keeps the statistic 0 and gets p = 1."""
    nonzero_E: NDArray[np.float64] = np.where(scale_E > 0, scale_E, 1.0)
    return nonzero_E
