"""Which points of a set are not dominated, when both columns are minimised.

Shapes: N points, 2 columns (L0, delta_ce).

Non-finite rows never reach moocore: there, a row with a NaN counts as non-dominated and knocks out real points.

Duplicates: a point does not dominate its equal, so every copy of a non-dominated point is non-dominated. The answer
then does not depend on the order of the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import moocore
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def as_points(points_N2: ArrayLike) -> NDArray[np.float64]:
    """Points as a float64 array of shape [N, 2]; an empty sequence becomes shape [0, 2].

    Args:
        points_N2: One row per point: (L0, delta_ce).

    Raises:
        ValueError: The shape is not [N, 2].
    """
    array = np.asarray(points_N2, dtype=np.float64)
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must have shape [N, 2], not {list(array.shape)}")
    return array


def finite_rows(points_N2: ArrayLike) -> NDArray[np.bool_]:
    """Which rows hold two finite numbers.

    Args:
        points_N2: One row per point: (L0, delta_ce).

    Returns:
        Mask of shape [N].
    """
    finite_N: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(as_points(points_N2)), axis=1)
    return finite_N


def count_non_finite(points_N2: ArrayLike) -> int:
    """Number of rows with a NaN or an infinity, which no frontier and no hypervolume contains."""
    return int((~finite_rows(points_N2)).sum())


def nondominated(points_N2: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates: at most as large in both columns and smaller in one.

    Args:
        points_N2: One row per point: (L0, delta_ce), both minimised. Non-finite rows are never non-dominated.

    Returns:
        Mask of shape [N]; all copies of a non-dominated point are marked.
    """
    points_N2 = as_points(points_N2)
    mask_N = finite_rows(points_N2)
    if mask_N.any():
        mask_N[mask_N] = moocore.is_nondominated(points_N2[mask_N], keep_weakly=True)
    return mask_N


def pareto_rank(points_N2: ArrayLike) -> NDArray[np.int64]:
    """Rank of every point: 0 for the non-dominated ones, 1 for those non-dominated once rank 0 is gone, and so on.

    Args:
        points_N2: One row per point: (L0, delta_ce), both minimised.

    Returns:
        Ranks of shape [N]; -1 for rows with a NaN or an infinity. Copies of a point share their rank.
    """
    points_N2 = as_points(points_N2)
    finite_N = finite_rows(points_N2)
    ranks_N = np.full(len(points_N2), -1, dtype=np.int64)
    if finite_N.any():
        ranks_N[finite_N] = moocore.pareto_rank(points_N2[finite_N])
    return ranks_N
