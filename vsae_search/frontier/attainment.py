"""Empirical attainment: how often, over repeated runs, a place on the (L0, delta_ce) plane is reached.

A run *attains* a place when one of its points is at most as large in both columns. The attainment function is the
share of runs that attain a place; the surface at 50 % is the edge of what at least half of the runs attain (the
median frontier), and those at 25 and 75 % give the band around it. All are exact: the function only changes at
coordinates of the points.

No axis scale enters the function or its surfaces. Volumes and areas are on (log2 L0, delta_ce), inside the box of the
hypervolume; the volume under the attainment function is the mean hypervolume of the runs.

Shapes: R runs, M corners, G places, C cells, A groups.

Reference: Grunert da Fonseca, Fonseca and Hall 2001; Fonseca, Guerreiro, López-Ibáñez and Paquete 2011.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.dominance import as_points
from vsae_search.frontier.hypervolume import box_area, inside, usable_ideal
from vsae_search.frontier.staircase import attained, staircase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from vsae_search.frontier.hypervolume import Point

    Runs = Sequence[ArrayLike] | NDArray[np.float64]  # per run, points of shape [N, 2]; an array [R, N, 2] is one, too

BAND = (0.25, 0.5, 0.75)

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class AttainmentSurface:
    """The edge of what at least a share of the runs attains.

    Attributes:
        level: Share of runs asked for, above 0 and at most 1.
        num_attaining: Smallest number of runs that is at least that share.
        num_runs: Number of runs.
        corners_M2: (L0, delta_ce), L0 strictly rising and delta_ce strictly falling; drawn with ``hv`` steps. Empty
            where no place is attained so often.
    """

    level: float
    num_attaining: int
    num_runs: int
    corners_M2: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Rectangles on which the attainment functions of some groups of runs are constant; they tile the box.

    Attributes:
        boxes_C4: (lowest L0, lowest delta_ce, highest L0, highest delta_ce), L0 itself and not its logarithm.
        shares_CA: Share of runs of each group that attain the rectangle (its lower left corner included).
    """

    boxes_C4: NDArray[np.float64]
    shares_CA: NDArray[np.float64]

    @property
    def areas_C(self) -> NDArray[np.float64]:
        """Area of each rectangle in octaves of L0 times the unit of delta_ce."""
        widths_C = np.log2(self.boxes_C4[:, 2]) - np.log2(self.boxes_C4[:, 0])
        areas_C: NDArray[np.float64] = widths_C * (self.boxes_C4[:, 3] - self.boxes_C4[:, 1])
        return areas_C


def attainment(runs: Runs, places_G2: ArrayLike) -> NDArray[np.float64]:
    """Share of runs that attain each place, shape [G].

    Args:
        runs: Per run, points of shape [N, 2]: (L0, delta_ce). A run without a finite point attains nothing.
        places_G2: (L0, delta_ce) of the places.

    Raises:
        ValueError: There are no runs.
    """
    places_G2 = as_points(places_G2)
    share_G: NDArray[np.float64] = (_levels(runs, places_G2[:, 0]) <= places_G2[:, 1]).mean(axis=0)
    return share_G


def attainment_surface(runs: Runs, level: float = 0.5) -> AttainmentSurface:
    """What at least a share of the runs attains.

    At every L0, the k-th best staircase value of the runs is attained by k of them, so the surface is an order
    statistic taken at each L0 of a point.

    Args:
        runs: Per run, points of shape [N, 2]: (L0, delta_ce).
        level: Share of runs, above 0 and at most 1. With 6 runs, 50 % is 3 runs, and 25 % is 2.

    Raises:
        ValueError: There are no runs, or the level is not a share.
    """
    if not 0 < level <= 1:
        raise ValueError(f"an attainment level is above 0 and at most 1, not {level}")
    corners = [staircase(points_N2) for points_N2 in runs]
    l0_G = np.unique(np.concatenate([corners_M2[:, 0] for corners_M2 in corners] or [np.empty(0)]))
    levels_RG = _levels(corners, l0_G)
    count = max(1, math.ceil(level * len(corners) - _ROUNDING))
    kth_G = np.sort(levels_RG, axis=0)[count - 1]
    return AttainmentSurface(level, count, len(corners), staircase(np.column_stack([l0_G, kth_G])))


def attainment_band(runs: Runs, levels: Sequence[float] = BAND) -> tuple[AttainmentSurface, ...]:
    """One surface per level.

    Raises:
        ValueError: There are no runs, or a level is not a share.
    """
    return tuple(attainment_surface(runs, level) for level in levels)


def attainment_volume(runs: Runs, reference: Point, *, ideal: Point | None = None) -> tuple[float, float]:
    """Volume under the attainment function in the reference box: the mean hypervolume of the runs.

    Args:
        runs: Per run, points of shape [N, 2]: (L0, delta_ce).
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Returns:
        The volume in octaves of L0 times the unit of delta_ce, and as a fraction of the box.

    Raises:
        ValueError: There are no runs.
        UserInputError: The corners are not those of a box.
    """
    cells = attainment_cells([runs], reference, ideal=ideal)
    volume = float(cells.areas_C @ cells.shares_CA[:, 0])
    return volume, volume / box_area(reference, usable_ideal(reference, ideal))


def attainment_cells(groups: Sequence[Runs], reference: Point, *, ideal: Point | None = None) -> Cells:
    """Cut the reference box into rectangles on which every group's attainment function is constant.

    Points are treated as for the hypervolume: non-finite ones and those on or beyond the reference are left out, and
    those better than the ideal are moved onto it.

    Args:
        groups: Per group, its runs.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        ValueError: A group has no runs.
        UserInputError: The corners are not those of a box.
    """
    low = usable_ideal(reference, ideal)
    boxed = [[staircase(np.maximum(inside(points_N2, reference), low)) for points_N2 in runs] for runs in groups]
    every_N2 = np.concatenate([np.empty((0, 2)), *itertools.chain.from_iterable(boxed)])
    edges = np.unique(np.concatenate([[low[0]], every_N2[:, 0]]))
    levels = [np.minimum(_levels(runs, edges), reference[1]) for runs in boxed]
    open_boxes: dict[tuple[float, ...], float] = {}  # (lowest delta_ce, highest, shares) -> lowest L0
    done: list[tuple[float, ...]] = []
    for column, left in enumerate(edges.tolist()):
        pieces = _pieces([levels_RG[:, column] for levels_RG in levels], low[1], reference[1])
        done += [(start, *piece, left) for piece, start in open_boxes.items() if piece not in pieces]
        open_boxes = {piece: open_boxes.get(piece, left) for piece in pieces}
    done += [(start, *piece, reference[0]) for piece, start in open_boxes.items()]
    table = np.array(sorted(done), dtype=np.float64)  # columns: left, bottom, top, shares, right
    return Cells(table[:, [0, 1, -1, 2]], table[:, 3:-1])


def _pieces(levels: list[NDArray[np.float64]], bottom: float, top: float) -> dict[tuple[float, ...], None]:
    """The column above one L0, cut where a run begins to attain: (lowest delta_ce, highest, share of each group)."""
    cuts = np.unique(np.concatenate([[bottom, top], *levels]))
    shares = [np.searchsorted(np.sort(levels_R), cuts[:-1], side="right") / len(levels_R) for levels_R in levels]
    return dict.fromkeys(zip(cuts[:-1].tolist(), cuts[1:].tolist(), *(share.tolist() for share in shares), strict=True))


def _levels(runs: Runs, l0_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """Staircase value of every run at every L0, shape [R, G]; infinity where a run attains nothing."""
    if not len(runs):
        raise ValueError("attainment needs at least one run")
    return np.array([attained(points_N2, l0_G) for points_N2 in runs])
