"""Numbers for how far one frontier lies behind another: additive epsilon and IGD+, on (log2 L0, delta_ce).

Both are distances on a plane whose axes have different units, so both are given twice: in *raw* units, where one
octave of L0 weighs as much as one unit of delta_ce, and *normalised*, where each axis runs from 0 (ideal) to 1
(reference) and the number is a fraction of the box. Multiplicative epsilon is not offered: delta_ce can be zero or
negative.

Points are treated as for the hypervolume: non-finite ones and those on or beyond the reference are left out, and those
better than the ideal are moved onto it.

Reference: Zitzler, Thiele, Laumanns, Fonseca and Grunert da Fonseca 2003 (epsilon); Ishibuchi, Masuda, Tanigaki and
Nojima 2015 (IGD+).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import moocore
import numpy as np

from vsae_search.frontier.hypervolume import inside, log_scaled, usable_ideal
from vsae_search.frontier.staircase import staircase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

    from vsae_search.frontier.hypervolume import Point


@dataclass(frozen=True)
class Indicator:
    """One indicator in both units.

    Attributes:
        raw: On (log2 L0, delta_ce) as they are.
        normalised: With both axes scaled to the reference box.
    """

    raw: float
    normalised: float


def epsilon_additive(
    points_N2: ArrayLike, others_M2: ArrayLike, reference: Point, *, ideal: Point | None = None
) -> Indicator | None:
    """Smallest amount by which a set must be moved down in both columns to be nowhere worse than another one.

    0 or less: nowhere worse. It is not symmetric, and a positive number in both directions means that each set is
    better somewhere.

    Args:
        points_N2: The set to judge: (L0, delta_ce).
        others_M2: The set that it is compared with.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Returns:
        None if one of the sets has no point inside the reference.

    Raises:
        UserInputError: The corners are not those of a box.
    """
    return _indicator(moocore.epsilon_additive, points_N2, others_M2, reference, ideal)


def igd_plus(
    points_N2: ArrayLike, others_M2: ArrayLike, reference: Point, *, ideal: Point | None = None
) -> Indicator | None:
    """Mean distance from the points of another frontier to what a set attains, counting only what is worse.

    0: every point of the other frontier is attained. Usually the other frontier is the pooled one of all
    architectures (`pooled_frontier`).

    Args:
        points_N2: The set to judge: (L0, delta_ce).
        others_M2: The frontier that it is compared with; dominated points of it are left out.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Returns:
        None if one of the sets has no point inside the reference.

    Raises:
        UserInputError: The corners are not those of a box.
    """
    return _indicator(moocore.igd_plus, points_N2, others_M2, reference, ideal)


def pooled_frontier(sets: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Corners of the staircase of all points together, shape [M, 2]: L0 rising, delta_ce falling."""
    return staircase(np.concatenate([np.empty((0, 2)), *(staircase(points_N2) for points_N2 in sets)]))


def _indicator(
    measure: Callable[..., float], points_N2: ArrayLike, others_M2: ArrayLike, reference: Point, ideal: Point | None
) -> Indicator | None:
    low = usable_ideal(reference, ideal)
    sets = [_scaled(points, reference, low) for points in (points_N2, others_M2)]
    if not all(map(len, sets)):
        return None
    origin = np.array([math.log2(low[0]), low[1]])
    size = np.array([math.log2(reference[0]), reference[1]]) - origin
    shrunk = [(points - origin) / size for points in sets]
    return Indicator(raw=float(measure(sets[0], ref=sets[1])), normalised=float(measure(shrunk[0], ref=shrunk[1])))


def _scaled(points_N2: ArrayLike, reference: Point, ideal: Point) -> NDArray[np.float64]:
    return log_scaled(staircase(np.maximum(inside(points_N2, reference), np.asarray(ideal))))
