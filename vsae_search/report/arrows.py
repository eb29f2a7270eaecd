"""Directions in a plane as arrows from the origin.

Shapes: N arrows.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DIGITS = 3
_ROOM = 1.12


def arrows(
    vectors_N2: NDArray[np.floating],
    names: Sequence[str],
    *,
    label: str,
    colour: str,
    width: float = 2.0,
    dash: str = "solid",
    visible: bool = True,
) -> dict[str, Any]:
    """One trace with an arrow from the origin to every vector.

    Args:
        vectors_N2: Their ends.
        names: What stands at each end when it is pointed at.
        label: Name in the legend.
        colour: ``#rrggbb``.
        width: Of the shafts, in pixels.
        dash: ``solid``, ``dot`` or ``dash``.
        visible: Whether they are shown at first.
    """
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for (right, up), name in zip(np.round(vectors_N2, _DIGITS).tolist(), names, strict=True):
        x += [0.0, right, None]
        y += [0.0, up, None]
        texts += ["", f"{escape(name)}<br>({right:g}, {up:g})", ""]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(label),
        "x": x,
        "y": y,
        "hovertext": texts,
        "hoverinfo": "text",
        "line": {"color": colour, "width": width, "dash": dash},
        "marker": {
            "symbol": "arrow",
            "angleref": "previous",
            "size": [0, 6 + 3 * width, 0] * len(names),
            "color": colour,
        },
        "visible": visible,
        "showlegend": True,
    }


def plane_layout(vectors: Sequence[NDArray[np.floating]], titles: tuple[str, str]) -> dict[str, Any]:
    """A square window around the origin that holds all vectors, both axes on the same scale."""
    reach = _ROOM * max((float(np.abs(part).max(initial=0.0)) for part in vectors), default=1.0) or 1.0
    axis = {"range": [-reach, reach], "constrain": "domain", "zeroline": True, "showgrid": False}
    return {
        "xaxis": {**axis, "title": {"text": titles[0]}},
        "yaxis": {**axis, "title": {"text": titles[1]}, "scaleanchor": "x"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 48, "b": 52},
    }
