"""What the figures on the (L0, delta_ce) plane share on the page: axes, reference lines, the switch of scales."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from vsae_search.report.card import Control
from vsae_search.report.view import delta_ce_title, l0_marks, l0_title, tick_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vsae_search.report.data import ReportData
    from vsae_search.report.view import FrontierView

GREY = "#8b9098"
_FEW_DECADES = 3.5


def plane(data: ReportData, view: FrontierView) -> dict[str, Any]:
    """Layout of a figure with L0 to the right and delta_ce upwards."""
    shapes, notes = _marks_of_reference(data, view)
    return {
        "xaxis": l0_axis(view),
        "yaxis": {"title": {"text": escape(delta_ce_title(data))}, **_y_axis(view, view.scale)},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.05, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 72, "r": 24, "t": 64, "b": 60},
        "shapes": shapes,
        "annotations": notes,
    }


def l0_axis(view: FrontierView) -> dict[str, Any]:
    """The L0 axis, binary logarithmic."""
    return {
        "type": "log",
        "title": {"text": l0_title()},
        "range": [math.log10(end) for end in view.l0_range],
        "tickmode": "array",
        "tickvals": list(view.l0_ticks),
        "ticktext": [tick_label(tick) for tick in view.l0_ticks],
    }


def scales(view: FrontierView) -> Sequence[Sequence[Control]]:
    """Buttons for a linear and a logarithmic delta_ce; none when the logarithmic one is impossible."""
    if view.log_range is None:
        return ()
    return (
        tuple(
            Control(
                f"{scale} delta-CE",
                {f"yaxis.{key}": value for key, value in _y_axis(view, scale).items() if key != "exponentformat"},
                pressed=scale == view.scale,
            )
            for scale in ("linear", "log")
        ),
    )


def steps(
    corners: Iterable[tuple[float, float]], end: float | None = None, floor: float = 0.0
) -> tuple[list[float], list[float]]:
    """Coordinates of a staircase, to be drawn with ``hv`` steps.

    Args:
        corners: (L0, delta_ce) by rising L0.
        end: L0 to which the last level is carried on; None ends at the last corner.
        floor: L0 at which smaller values are drawn.
    """
    placed: dict[float, float] = {}
    for l0, delta_ce in corners:
        placed[max(l0, floor)] = delta_ce  # of several corners on the floor the last is the lowest
    x, y = list(placed), list(placed.values())
    if x and end is not None and x[-1] < end:
        x, y = [*x, end], [*y, y[-1]]
    return x, y


def between(
    lower: tuple[list[float], list[float]], upper: tuple[list[float], list[float]], top: float
) -> tuple[list[float], list[float]]:
    """Outline of the area between two staircases that end at the same L0.

    Args:
        lower: Coordinates of the lower one, from `steps`.
        upper: Coordinates of the upper one; empty where it does not exist.
        top: Where the area ends left of the upper staircase.
    """
    x, y = _corners(*lower)
    back_x, back_y = _corners(*upper)
    if not back_x:
        return [x[0], *x, x[-1]], [top, *y, top]
    return [x[0], *x, *reversed(back_x), back_x[0]], [top, *y, *reversed(back_y), top]


def _corners(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Every bend of a staircase: before a fall the old level, after it the new one."""
    xs, ys = list(x[:1]), list(y[:1])
    for index in range(1, len(x)):
        xs += [x[index], x[index]]
        ys += [y[index - 1], y[index]]
    return xs, ys


def _y_axis(view: FrontierView, scale: str) -> dict[str, Any]:
    if scale == "log":
        assert view.log_range is not None
        low, high = (math.log10(end) for end in view.log_range)
        ticks = "D2" if high - low < _FEW_DECADES else 1  # 1, 2 and 5 of every decade, or the decades alone
        return {"type": "log", "range": [low, high], "exponentformat": "power", "dtick": ticks}
    return {"type": "linear", "range": list(view.linear_range), "dtick": None}


def _marks_of_reference(data: ReportData, view: FrontierView) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines at the true and the reference L0, labelled above the plot, and one at the reference delta_ce."""
    line = {"color": GREY, "width": 1, "dash": "dash"}
    shapes, notes = [], []
    for value, text in l0_marks(data):
        shapes.append({"type": "line", "yref": "paper", "x0": value, "x1": value, "y0": 0, "y1": 1, "line": line})
        place = {"x": math.log10(value), "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom"}
        side = "right" if value > view.l0_range[1] / 2 else "center"
        notes.append({**place, "xanchor": side, "text": text, "showarrow": False, "font": {"size": 11}})
    if data.axes.reference:
        level = data.axes.reference.delta_ce
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, "line": line})
    return shapes, notes
