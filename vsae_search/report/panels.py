"""Several small planes in one figure: where each lies, and its heading."""

from __future__ import annotations

from html import escape
from typing import Any


def panel_names(number: int) -> tuple[str, str]:
    """What traces call the axes of a panel, counted from 0: ``x``, ``y``, then ``x2``, ``y2``, ..."""
    suffix = "" if number == 0 else str(number + 1)
    return f"x{suffix}", f"y{suffix}"


def panel(
    number: int,
    count: int,
    columns: int,
    *,
    heading: str,
    x: dict[str, Any],
    y: dict[str, Any],
    gap: tuple[float, float] = (0.06, 0.12),
) -> dict[str, Any]:
    """Axes of one panel of a grid, as keys of a layout, and the heading above it under ``"note"``.

    Args:
        number: Which panel, row by row from 0.
        count: Panels in all.
        columns: Panels in a row.
        heading: Text above the panel; escaped here.
        x: Further keys of the x axis.
        y: Further keys of the y axis.
        gap: Room between panels, as shares of the figure's width and height.
    """
    rows = -(-count // columns)
    x_name, y_name = panel_names(number)
    left, right = _cell(number % columns, columns, gap[0])
    bottom, top = _cell(rows - 1 - number // columns, rows, gap[1])
    note = {
        "text": escape(heading),
        **{"x": (left + right) / 2, "xref": "paper", "xanchor": "center"},
        **{"y": top, "yref": "paper", "yanchor": "bottom"},
        **{"showarrow": False, "font": {"size": 12}},
    }
    return {
        f"xaxis{x_name[1:]}": {"domain": [left, right], "anchor": y_name, **x},
        f"yaxis{y_name[1:]}": {"domain": [bottom, top], "anchor": x_name, **y},
        "note": note,
    }


def join_panels(parts: list[dict[str, Any]], **layout: Any) -> dict[str, Any]:
    """One layout from the panels of a figure."""
    joined: dict[str, Any] = {"annotations": [*(part["note"] for part in parts), *layout.pop("annotations", [])]}
    for part in parts:
        joined |= {key: value for key, value in part.items() if key != "note"}
    return {**joined, **layout}


def _cell(number: int, count: int, gap: float) -> tuple[float, float]:
    size = (1 - gap * (count - 1)) / count
    start = number * (size + gap)
    return start, start + size
