"""Which of several frontiers is lowest at which L0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.hypervolume import inside
from vsae_search.frontier.staircase import attained, staircase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from vsae_search.frontier.hypervolume import Point


@dataclass(frozen=True)
class Segment:
    """A range of L0 in which one set of owners has the lowest staircase.

    Attributes:
        low: Smallest L0 of the range.
        high: Largest L0 of the range (the reference L0 for the last one).
        owners: Names whose staircases share the lowest delta_ce, sorted; more than one only in an exact tie.
    """

    low: float
    high: float
    owners: tuple[str, ...]


def ownership(points: Mapping[str, ArrayLike], reference: Point) -> tuple[Segment, ...]:
    """Cut the L0 axis into ranges by which named frontier attains the lowest delta_ce.

    Staircases are constant between frontier points, so comparing them at each frontier L0 is exact. Points on or
    beyond the reference own nothing: a reconstruction worse than the reference is no answer at any sparsity.

    Args:
        points: Per name, points of shape [N, 2]: (L0, delta_ce), both minimised.
        reference: (L0, delta_ce) that ends the axis and bounds the useful points.

    Returns:
        Ranges by rising L0, neighbours with different owners; empty when no point lies inside the reference.
    """
    corners = {name: staircase(inside(values, reference)) for name, values in points.items()}
    edges_G = np.unique(np.concatenate([corners_M2[:, 0] for corners_M2 in corners.values()] or [np.empty(0)]))
    if not len(edges_G):
        return ()
    levels = {name: attained(corners_M2, edges_G) for name, corners_M2 in corners.items()}
    highs_G = np.append(edges_G[1:], reference[0])
    segments: list[Segment] = []
    for index, (low, high) in enumerate(zip(edges_G.tolist(), highs_G.tolist(), strict=True)):
        lowest = min(level_G[index] for level_G in levels.values())
        owners = tuple(sorted(name for name, level_G in levels.items() if level_G[index] == lowest))
        if segments and segments[-1].owners == owners:
            segments[-1] = Segment(segments[-1].low, high, owners)
        else:
            segments.append(Segment(low, high, owners))
    return tuple(segments)
