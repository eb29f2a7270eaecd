"""What the frontier figure shows, as numbers: series, ranges, ticks. Page and picture are both drawn from this.

L0 is drawn on a binary logarithmic axis. A trial whose L0 is zero or below the ideal point is drawn on the ideal L0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vsae_search.report.references import drawable
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow

Scale = Literal["linear", "log"]

_LOG_SPAN = 30.0  # frontiers that span a larger ratio are unreadable on a linear axis


@dataclass(frozen=True)
class Series:
    """One architecture in the figure.

    Attributes:
        name: Its name.
        colour: ``#rrggbb``.
        symbol: Plotly symbol name.
        frontier: Frontier trials by rising L0.
        dominated: Its other drawable completed trials.
        corners: Corners of the staircase, (L0, delta_ce), drawn with horizontal-then-vertical steps.
        tail: End of the last step, at the reference L0; None when there is nothing to extend.
    """

    name: str
    colour: str
    symbol: str
    frontier: tuple[TrialRow, ...]
    dominated: tuple[TrialRow, ...]
    corners: tuple[tuple[float, float], ...]
    tail: tuple[float, float] | None


@dataclass(frozen=True)
class FrontierView:
    """Everything the frontier figure needs.

    Attributes:
        series: One per architecture with a drawable trial.
        floor: L0 at which smaller values are drawn.
        l0_range: Left and right end.
        l0_ticks: Powers of two inside the range.
        linear_range: Ends of the delta_ce axis on a linear scale.
        log_range: The same on a logarithmic scale; None when a frontier delta_ce is not positive.
        scale: Scale to start with.
        hidden: Drawable trials that lie above the linear range.
    """

    series: tuple[Series, ...]
    floor: float
    l0_range: tuple[float, float]
    l0_ticks: tuple[float, ...]
    linear_range: tuple[float, float]
    log_range: tuple[float, float] | None
    scale: Scale
    hidden: int


def frontier_view(data: ReportData) -> FrontierView | None:
    """Decide what the frontier figure shows; None when no trial can be drawn."""
    rows = [row for row in data.trials if row.state == "completed" and None not in (row.l0, row.delta_ce)]
    if not rows:
        return None
    reference = data.axes.reference
    smallest = min((row.l0 for row in rows if row.l0), default=1.0)
    floor = data.axes.ideal.l0 if data.axes.ideal else min(1.0, smallest)
    elsewhere = drawable(data)
    l0s = [max(l0, floor) for l0 in [*(row.l0 or 0.0 for row in rows), *(l0 for _, l0, _ in elsewhere)]]
    right = max([*l0s, *([reference.l0] if reference else [])])
    left = min(min(l0s), right / 2, data.sweep.true_l0 or right)
    levels = [level for entry in data.architectures for level in entry.staircase.delta_ce]
    shown = [*levels, *(delta_ce for _, _, delta_ce in elsewhere)]
    linear_range = _linear_range(shown, reference.delta_ce if reference else None)
    log_range = _log_range([level for level in shown if level > 0 or level in levels], linear_range[1])
    return FrontierView(
        series=tuple(
            _series(data, entry, rows, floor, reference.l0 if reference else right) for entry in data.architectures
        ),
        floor=floor,
        l0_range=(left / 1.25, right * 1.12),
        l0_ticks=_powers_of_two(left / 1.25, right * 1.12),
        linear_range=linear_range,
        log_range=log_range,
        scale="log" if log_range and max(levels) / min(levels) > _LOG_SPAN else "linear",
        hidden=sum((row.delta_ce or 0.0) > linear_range[1] for row in rows),
    )


def _series(data: ReportData, entry: ArchitectureSummary, rows: Sequence[TrialRow], floor: float, end: float) -> Series:
    corners: dict[float, float] = {}
    for l0, delta_ce in zip(entry.staircase.l0, entry.staircase.delta_ce, strict=True):
        corners[max(l0, floor)] = delta_ce  # of several corners on the floor the last is the lowest
    last = list(corners.items())[-1] if corners else None
    return Series(
        name=entry.name,
        colour=entry.colour,
        symbol=entry.symbol,
        frontier=data.frontier(entry.name),
        dominated=tuple(row for row in rows if row.architecture == entry.name and not row.on_frontier),
        corners=tuple(corners.items()),
        tail=(end, last[1]) if last and last[0] < end else None,
    )


def _linear_range(levels: Sequence[float], reference: float | None) -> tuple[float, float]:
    """From a little below zero, or the lowest frontier point, to a little above the highest one or the reference."""
    top = max(levels) * 1.15 if levels and max(levels) > 0 else 1.0
    if reference is not None:
        top = min(max(top, reference * 0.25), reference * 1.08)
    low = min([0.0, *levels])
    return low - 0.04 * (top - low), top


def _log_range(levels: Sequence[float], top: float) -> tuple[float, float] | None:
    if not levels or min(levels) <= 0:
        return None
    return min(levels) / 1.6, max(top, max(levels) * 1.6)


def _powers_of_two(low: float, high: float) -> tuple[float, ...]:
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = max(1, math.ceil((last - first + 1) / 12))
    return tuple(2.0**exponent for exponent in range(first, last + 1) if exponent % step == 0)


def tick_label(l0: float) -> str:
    """A power of two as text: ``4``, or ``1/4`` below one."""
    return f"{l0:g}" if l0 >= 1 else f"1/{1 / l0:g}"


def l0_title() -> str:
    """Title of the L0 axis."""
    return "L0: firing latents per token (log2 scale)"


def delta_ce_title(data: ReportData) -> str:
    """Title of the delta_ce axis: what it measures, and its unit."""
    unit = f" ({data.axes.loss_unit})" if data.axes.loss_unit else ""
    name = data.axes.loss_name
    return f"delta-CE: {name}{unit}" if name.lower() not in ("delta-ce", "delta_ce") else f"delta-CE{unit}"


def l0_marks(data: ReportData) -> tuple[tuple[float, str], ...]:
    """Values of L0 that deserve a vertical line, with their labels."""
    marks = []
    if data.sweep.true_l0 and data.sweep.true_l0 > 0:
        marks.append((data.sweep.true_l0, f"true L0 {number(data.sweep.true_l0)}"))
    if data.axes.reference:
        marks.append((data.axes.reference.l0, "reference L0"))
    return tuple(marks)


def box_text(data: ReportData) -> str:
    """The reference box in words, to stand on every figure; empty without a reference point."""
    reference, ideal = data.axes.reference, data.axes.ideal
    if reference is None or ideal is None:
        return ""
    return (
        f"Hypervolumes: {data.axes.l0_scale} L0 and {data.axes.delta_ce_scale} delta-CE, reference L0 "
        f"{number(reference.l0, 4)}, delta-CE {number(reference.delta_ce, 4)}, ideal L0 {number(ideal.l0, 4)}, "
        f"delta-CE {number(ideal.delta_ce, 4)}."
    )
