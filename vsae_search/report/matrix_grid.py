"""A grid of heat maps of small matrices on one scale of colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.matrix import COLOURS
from vsae_search.report.panels import join_panels, panel, panel_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = 3


def matrix_grid(rows: Sequence[Mapping[str, Any]], limit: float, what: str) -> tuple[dict[str, Any], int]:
    """Plotly specification and height of a grid.

    Args:
        rows: ``{"heading": text, "matrix": square matrix as lists, null where there is no number}``.
        limit: Value at either end of the colours.
        what: What a cell holds, for the text at the pointer.
    """
    traces: list[dict[str, Any]] = []
    panels: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        x_name, y_name = panel_names(index)
        traces.append(
            {
                "type": "heatmap",
                "z": row["matrix"],
                "zmin": -limit,
                "zmax": limit,
                "colorscale": [list(stop) for stop in COLOURS],
                "showscale": False,
                "xaxis": x_name,
                "yaxis": y_name,
                "hovertemplate": f"{what} of features %{{y}} and %{{x}}: %{{z:.3g}}<extra></extra>",
            }
        )
        bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
        square = {"scaleanchor": x_name, "autorange": "reversed"}
        panels.append(panel(index, len(rows), COLUMNS, heading=row["heading"], x=bare, y={**bare, **square}))
    layout = join_panels(panels, showlegend=False, margin={"l": 16, "r": 16, "t": 52, "b": 16})
    return {"data": traces, "layout": layout}, 76 + 290 * -(-len(rows) // COLUMNS)


def as_lists(matrix_MM: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> list[list[float | None]]:
    """A matrix as JSON holds it: rounded, with null where there is no number."""
    return [[round(value, 4) if np.isfinite(value) else None for value in row] for row in matrix_MM.tolist()]
