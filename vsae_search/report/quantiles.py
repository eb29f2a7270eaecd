"""Several seeds as one curve: the median, and the band between the quartiles.

Shapes: R seeds, P places.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def quartiles(values_RP: NDArray[np.floating]) -> dict[str, list[float | None]]:
    """Median and quartiles over the seeds at every place; values that are not finite are left out.

    Returns:
        ``{"low", "median", "high"}``: P numbers each, None where no seed has a value.
    """
    kept = [column[np.isfinite(column)] for column in np.asarray(values_RP, dtype=np.float64).T]
    levels = {"low": 25, "median": 50, "high": 75}
    return {
        name: [float(np.percentile(column, level)) if column.size else None for column in kept]
        for name, level in levels.items()
    }


def band_traces(
    x: Sequence[float], band: Mapping[str, Sequence[float | None]], *, name: str, colour: str, **more: Any
) -> list[dict[str, Any]]:
    """The band and the line of one curve.

    Args:
        x: Places.
        band: From :func:`quartiles`.
        name: Of the curve, in the legend.
        colour: ``#rrggbb``.
        more: Further keys of both traces, such as the axes.
    """
    at = [(x, low, high) for x, low, high in zip(x, band["low"], band["high"], strict=True) if None not in (low, high)]
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    area = {
        "x": [*(x for x, _, _ in at), *(x for x, _, _ in reversed(at))],
        "y": [*(high for _, _, high in at), *(low for _, low, _ in reversed(at))],
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.18)",
        "line": {"width": 0, "color": colour},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = {
        "x": list(x),
        "y": list(band["median"]),
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2},
        "marker": {"size": 5, "color": colour},
        "name": escape(name),
        "hovertemplate": f"{escape(name)}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
    }
    return [{"type": "scatter", **trace, **more} for trace in (area, line)]
