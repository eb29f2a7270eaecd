"""How large a difference is, before asking whether it is one.

Shapes: R and S runs of two groups; paired groups have the runs of the same seed in the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Better = Literal["lower", "higher"]


def superiority(values_R: ArrayLike, others_S: ArrayLike, better: Better, *, paired: bool) -> float | None:
    """Probability that a run of the first group beats one of the second, ties counted half; 0.5 is no difference.

    Unpaired, every run meets every run, and ``2 * superiority - 1`` is Cliff's delta. Paired, runs of the same seed
    meet.

    Args:
        values_R: One value per run; infinity for a run that attains nothing.
        others_S: The same for the second group.
        better: Which direction wins.
        paired: Whether runs belong together.

    Returns:
        None without a run in one of the groups.

    Raises:
        ValueError: Paired groups differ in size.
    """
    first, second = _groups(values_R, others_S, paired)
    if not (len(first) and len(second)):
        return None
    if better == "higher":
        first, second = -first, -second
    if not paired:
        first, second = np.repeat(first, len(second)), np.tile(second, len(first))
    return float(np.mean((first < second) + 0.5 * (first == second)))


def hodges_lehmann(values_R: ArrayLike, others_S: ArrayLike, *, paired: bool) -> float | None:
    """A typical difference, first minus second, that one odd run hardly moves.

    Unpaired: the median of all differences between the groups. Paired: the median of the means of all pairs of
    differences, each with itself included (the estimate that goes with Wilcoxon's signed ranks).

    Returns:
        None without a run in one of the groups or with a value that is not finite.

    Raises:
        ValueError: Paired groups differ in size.

    Reference: Hodges and Lehmann 1963.
    """
    first, second = _groups(values_R, others_S, paired)
    if not (len(first) and len(second) and np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    if not paired:
        return float(np.median(np.subtract.outer(first, second)))
    differences_R = first - second
    rows, columns = np.triu_indices(len(differences_R))
    return float(np.median((differences_R[rows] + differences_R[columns]) / 2))


def _groups(values_R: ArrayLike, others_S: ArrayLike, paired: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (values_R, others_S))
    if paired and len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} runs cannot be pairs")
    return first, second
