"""How even a frontier is along the range of L0 that the user asked for, and where its widest gap is.

All positions are log2 L0, so that one unit is a doubling.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Interval = tuple[float, float]

_SMALLEST_L0 = 2.0**-20
_ATTEMPTS = 2
"""A gap that this many proposals aimed at without closing it is left alone: not every sparsity can be reached."""


def signed_distance(position: float, interval: Interval) -> float:
    """Doublings from a position to the nearest end of an interval: negative inside, positive outside, 0 on an end."""
    return max(interval[0] - position, position - interval[1])


def log2_l0(l0: float) -> float:
    """Logarithm of an L0; an autoencoder that never fires has a very small one."""
    return math.log2(max(l0, _SMALLEST_L0))


def frontier_order(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats, by rising first objective; both are minimised, and of equals one is named."""
    kept: list[int] = []
    lowest = math.inf
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < lowest:
            kept.append(index)
            lowest = points[index][1]
    return kept


def frontier_positions(points: Sequence[tuple[float, float]], wanted: Interval) -> list[float]:
    """Positions of the non-dominated points inside the wanted interval, rising.

    Args:
        points: (log2 L0, second objective), both minimised.
        wanted: The interval that the user asked for.
    """
    inside = [point for point in points if signed_distance(point[0], wanted) <= 0]
    return [inside[index][0] for index in frontier_order(inside)]


def gaps(positions: Iterable[float], wanted: Interval) -> list[Interval]:
    """The stretches between neighbours, and between the outer ones and the ends of the interval, the widest first."""
    edges = [wanted[0], *sorted(positions), wanted[1]]
    found = [(low, high) for low, high in pairwise(edges) if high > low]
    return sorted(found, key=lambda gap: gap[0] - gap[1])


def widest_gap(
    points: Sequence[tuple[float, float]], wanted: Interval, attempted: Sequence[Interval]
) -> Interval | None:
    """The gap that the next proposal should aim at.

    Args:
        points: Completed trials as (log2 L0, second objective).
        wanted: The interval that the user asked for.
        attempted: Gaps that earlier proposals aimed at; a gap keeps its ends until a trial lands in it.

    Returns:
        The widest gap that has not been tried twice in vain, if it is wider than even spacing leaves; else None.
    """
    positions = frontier_positions(points, wanted)
    even = (wanted[1] - wanted[0]) / (len(positions) + 1)
    tried = [tuple(gap) for gap in attempted]
    for gap in gaps(positions, wanted):
        if positions and gap[1] - gap[0] <= even * (1 + 1e-9):
            return None
        if tried.count(gap) < _ATTEMPTS:
            return gap
    return None


def edge_points(points: Sequence[tuple[float, float]], gap: Interval) -> tuple[int, int] | None:
    """The frontier points on either side of a gap, as indices.

    At an end of the wanted range, where the gap has no trial, the nearest one beyond the end takes its place.

    Args:
        points: Completed trials as (log2 L0, second objective), those outside the wanted range too.
        gap: Both ends as log2 L0.

    Returns:
        Index of the sparser and of the denser one; None when one side has none.
    """
    order = frontier_order(points)
    left = [index for index in order if points[index][0] <= gap[0]]
    right = [index for index in order if points[index][0] >= gap[1]]
    return (left[-1], right[0]) if left and right else None


def unevenness(l0: Iterable[float], low: float, high: float) -> float:
    """The widest gap of a frontier, as a fraction of the wanted range on a logarithmic scale: 0 to 1.

    Args:
        l0: L0 of the frontier's trials.
        low: Smallest wanted L0.
        high: Largest wanted L0.
    """
    wanted = (math.log2(low), math.log2(high))
    positions = [position for position in map(log2_l0, l0) if signed_distance(position, wanted) <= 0]
    widths = [gap[1] - gap[0] for gap in gaps(positions, wanted)]
    return float(np.max(widths, initial=0.0)) / (wanted[1] - wanted[0])
