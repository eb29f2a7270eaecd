"""The staircase under a frontier: what is attained at each L0, without claiming points that nobody trained.

Between two neighbouring trials the better delta_ce has not been reached yet, so the line runs horizontally at the
sparser trial's delta_ce and falls at the next trial (Plotly's ``line_shape="hv"``, Matplotlib's ``steps-post``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.dominance import as_points, nondominated

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def staircase(points_N2: ArrayLike) -> NDArray[np.float64]:
    """Corners of the staircase: the distinct non-dominated points by rising L0.

    Args:
        points_N2: One row per point: (L0, delta_ce), both minimised; non-finite and dominated rows are left out.

    Returns:
        Array of shape [M, 2]: L0 strictly rising, delta_ce strictly falling; to be drawn with ``hv`` steps.
    """
    points_N2 = as_points(points_N2)
    return np.unique(points_N2[nondominated(points_N2)], axis=0)


def attained(points_N2: ArrayLike, l0_G: ArrayLike) -> NDArray[np.float64]:
    """Lowest delta_ce reached by a point whose L0 is at most the given one: the staircase read at a place.

    Args:
        points_N2: One row per point: (L0, delta_ce).
        l0_G: Values of L0 at which to read, shape [G].

    Returns:
        Array of shape [G]; infinity where every point has a larger L0.
    """
    corners_M2 = staircase(points_N2)
    index_G = np.searchsorted(corners_M2[:, 0], np.asarray(l0_G, dtype=np.float64), side="right")
    levels = np.concatenate([[np.inf], corners_M2[:, 1]])
    result_G: NDArray[np.float64] = levels[index_G]
    return result_G
