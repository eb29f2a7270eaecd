"""A full grid over ranges: choices as they are, numbers at as many points as the budget pays for."""

from __future__ import annotations

import math
import random
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.space import Range

_MOST_POINTS = 1_000_000


def grid_axes(ranges: Mapping[str, Range], budget: int) -> dict[str, list[Any]]:
    """The values of every hyper-parameter.

    Every range of numbers gets the same number of points, as many as the budget pays for beside the choices, and the
    first ones get one more where that is still paid for. On its own scale a range is cut into equal parts, and a point
    is in the middle of each. A range of whole numbers has at most its own values.

    Args:
        ranges: The ranges of one architecture.
        budget: Trials that may be spent, at least 0.

    Returns:
        Hyper-parameter to its values; the grid is their product.
    """
    numbers = {name: 1 for name, searched in ranges.items() if not isinstance(searched, ChoiceRange | ConstantRange)}
    axes = {name: _values(searched, 1) for name, searched in ranges.items()}
    grows = True
    while grows:
        grows = False
        for name, points in list(numbers.items()):
            values = _values(ranges[name], points + 1)
            others = math.prod(len(axis) for other, axis in axes.items() if other != name)
            if points < _num_values(ranges[name]) and others * len(values) <= budget:
                axes[name], numbers[name], grows = values, points + 1, True
    return axes


def grid_size(ranges: Mapping[str, Range], budget: int) -> int:
    """Number of points of the grid."""
    return math.prod(len(axis) for axis in grid_axes(ranges, budget).values())


def grid_points(ranges: Mapping[str, Range], budget: int, seed: int) -> list[dict[str, Any]]:
    """The points of the grid, in an order that a seed shuffles.

    A sweep that is interrupted, or choices that have more combinations than the budget has trials, then leave an even
    sample of the grid and not its first corner.

    Args:
        ranges: The ranges of one architecture.
        budget: Trials that may be spent.
        seed: Seed of the order.
    """
    axes = grid_axes(ranges, budget)
    points = [dict(zip(axes, values, strict=True)) for values in islice(product(*axes.values()), _MOST_POINTS)]
    random.Random(seed).shuffle(points)
    return points


def _values(searched: Range, points: int) -> list[Any]:
    if isinstance(searched, ConstantRange):
        return [searched.value]
    if isinstance(searched, ChoiceRange):
        return list(searched.choices)
    return list(dict.fromkeys(_at(searched, (index + 0.5) / points) for index in range(points)))


def _num_values(searched: Range) -> float:
    """How many different values a range has."""
    if isinstance(searched, IntRange) or (isinstance(searched, LogRange) and searched.integer):
        return searched.high - searched.low + 1
    return math.inf


def _at(searched: LogRange | UniformRange | IntRange, unit: float) -> float:
    """The value at a part of the range on its own scale; a whole number owns half a unit on either side."""
    whole = isinstance(searched, IntRange) or (isinstance(searched, LogRange) and searched.integer)
    half = 0.5 if whole else 0.0
    low, high = searched.low - half, searched.high + half
    value = float(low * (high / low) ** unit) if isinstance(searched, LogRange) else low + (high - low) * unit
    return min(max(math.floor(value + half), searched.low), searched.high) if whole else value
