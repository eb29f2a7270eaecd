"""Matrices as heat maps that stay small: one byte per cell, and blocks in place of cells where there are too many.

A coded matrix is ``{"shape": [rows, columns], "unit": u, "bdata": text}``: base64 of signed bytes, row by row; a cell's
value is its byte times the unit. That is how matrices stand in ``report.json``; figures draw the whole numbers.

Shapes: R rows, C columns, Q groups.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_UNITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LARGEST_CODE = 127
# Orange for negative, blue for positive, and nothing at all for 0, so that the page shows through, light or dark.
COLOURS = ((0.0, "rgba(213,94,0,1)"), (0.5, "rgba(128,128,128,0)"), (1.0, "rgba(0,114,178,1)"))
LINE = "#8b9098"


def coded(matrix_RC: NDArray[np.floating], *, finest: float = 0.01) -> dict[str, Any]:
    """A finite matrix at one byte per cell, with the finest unit of 0.01, 0.02, 0.05, ... that holds its largest cell.

    Cells beyond 127 times the coarsest unit are cut off there.

    Args:
        matrix_RC: The matrix.
        finest: Smallest unit that is used.
    """
    largest = float(np.abs(matrix_RC).max(initial=0.0))
    units = [unit for unit in _UNITS if unit >= finest]
    unit = next((unit for unit in units if largest <= _LARGEST_CODE * unit), units[-1])
    codes = np.clip(np.rint(matrix_RC / unit), -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
    return {"shape": list(codes.shape), "unit": unit, "bdata": base64.b64encode(codes.tobytes()).decode("ascii")}


def decoded(matrix: Mapping[str, Any]) -> NDArray[np.float64]:
    """The matrix [R, C] behind a coded one, to within half a unit."""
    return np.asarray(_codes(matrix) * float(matrix["unit"]))


def _codes(matrix: Mapping[str, Any]) -> NDArray[np.int8]:
    codes = np.frombuffer(base64.b64decode(matrix["bdata"]), dtype=np.int8)
    return codes.reshape(matrix["shape"])


def blocks(count: int, most: int) -> list[tuple[int, int]]:
    """First and last place of each of at most ``most`` even blocks of ``count`` places."""
    size = max(1, -(-count // most))
    return [(start, min(start + size, count) - 1) for start in range(0, count, size)]


def block_maxima(
    matrix_RC: NDArray[np.float64], rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """The cell with the largest absolute value of every block, with its sign."""
    return _extremes(_extremes(matrix_RC, rows).T, columns).T


def _extremes(matrix_RC: NDArray[np.float64], rows: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """The cell with the largest absolute value of each block of rows, column by column."""
    if not rows:
        return np.zeros((0, matrix_RC.shape[1]))
    starts = [first for first, _ in rows]
    high = np.maximum.reduceat(matrix_RC, starts, axis=0)
    low = np.minimum.reduceat(matrix_RC, starts, axis=0)
    return np.where(high >= -low, high, low)


def span(what: str, numbers: NDArray[np.int64], first: int, last: int) -> str:
    """Name of a place, or of a block with its first and last: ``feature 3``, ``features 0 ... 7``."""
    return f"{what} {numbers[first]}" if first == last else f"{what}s {numbers[first]} \u2026 {numbers[last]}"


def heatmap(
    matrix: Mapping[str, Any],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limit: float,
    hover: str,
    visible: bool = True,
) -> dict[str, Any]:
    """A trace that draws a coded matrix.

    Args:
        matrix: From :func:`coded`.
        rows: Name of each row; names are categories of the y axis, so no two are the same and none is a bare number.
        columns: Name of each column.
        limit: Absolute value that gets the full colour.
        hover: Text with ``%{x}``, ``%{y}`` and ``%{z}``; it is followed by the unit in which z is counted.
        visible: Whether it is shown at first.
    """
    unit = matrix["unit"]
    ticks = [round(limit * share, 3) for share in (-1, -0.5, 0, 0.5, 1)]
    return {
        "type": "heatmap",
        "z": _codes(matrix).tolist(),
        "x": list(columns),
        "y": list(rows),
        "colorscale": [list(stop) for stop in COLOURS],
        "zmin": -limit / unit,
        "zmax": limit / unit,
        "colorbar": {
            "tickvals": [tick / unit for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
            "orientation": "h",
            "y": -0.2,
            "yanchor": "top",
            "len": 0.6,
            "thickness": 10,
            "outlinewidth": 0,
        },
        "hovertemplate": f"{hover} \u00d7 {unit:g}<extra></extra>",
        "visible": visible,
    }


def axes(row_groups: Sequence[Group], column_groups: Sequence[Group]) -> dict[str, Any]:
    """Axes of a heat map whose ticks name groups of consecutive rows and columns, with lines between the groups."""
    return {
        "xaxis": {**_axis(column_groups), "tickangle": -30},
        "yaxis": {**_axis(row_groups), "tickangle": -90, "autorange": "reversed"},
        "shapes": [*_lines(column_groups, "x"), *_lines(row_groups, "y")],
        "margin": {"l": 40, "r": 24, "t": 32, "b": 120},
    }


Group = tuple[str, int, int]
"""Name of a group, the place of its first member and the place after its last one."""


def _axis(groups: Sequence[Group]) -> dict[str, Any]:
    shown = [(name, (first + last - 1) / 2) for name, first, last in groups if last > first]
    return {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "tickmode": "array",
        "tickfont": {"size": 11},
        "tickvals": [middle for _, middle in shown],
        "ticktext": [name for name, _ in shown],
    }


def _lines(groups: Sequence[Group], axis: str) -> list[dict[str, Any]]:
    """A thin line before every group but the first, even an empty one, so that their number does not depend on it."""
    other = "y" if axis == "x" else "x"
    found = []
    for _, first, _ in groups:
        if first > 0:
            ends = {f"{axis}0": first - 0.5, f"{axis}1": first - 0.5, f"{other}0": 0, f"{other}1": 1}
            found.append(
                {
                    "type": "line",
                    f"{other}ref": f"{other} domain",
                    **ends,
                    "line": {"color": LINE, "width": 1, "dash": "dot"},
                }
            )
    return found
