"""How much of a dimension each feature has for itself, beside the values of known figures."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vsae_search.report.card import Figure
from vsae_search.report.chart import GREY
from vsae_search.report.toy_models import nothing_trained, stored_toys
from vsae_search.subjects.superposition import dimensionality
from vsae_search.subjects.toy_geometry import represented

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

LEVELS = {
    "orthogonal": 1.0,
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "antipodal pair": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
}
"""Dimensionality of a feature in known figures (Elhage et al., 2022)."""
_SPREAD = 0.6


class DimensionalityCard:
    """A dot for every represented feature of every seed."""

    name = "dimensionality"
    title = "Dimensionality"
    order = 40

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """D_i of the represented features of every seed."""
        rows = []
        for arm, toys in stored_toys(source).items():
            seeds = [dimensionality(toy.arrays["W"])[represented(toy.arrays["W"])].round(4).tolist() for toy in toys]
            rows.append({"model": arm, "seeds": seeds})
        return {"rows": rows}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained."""
        return nothing_trained(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure."""
        rows = data.cards["dimensionality"]["rows"]
        traces = [_trace(place, row) for place, row in enumerate(rows)]
        right = len(rows) - 0.4
        layout = {
            "xaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [escape(row["model"]) for row in rows],
                "range": [-0.6, right + 0.8],
                "showgrid": False,
            },
            "yaxis": {"title": {"text": "dimensionality D\u1d62"}, "range": [0, 1.06]},
            "shapes": [_line(level) for level in LEVELS.values()],
            "annotations": [_note(name, level, right) for name, level in LEVELS.items()],
            "showlegend": False,
            "margin": {"l": 64, "r": 16, "t": 16, "b": 48},
        }
        return (
            Figure(
                spec={"data": traces, "layout": layout},
                alt="Dimensionality of the represented features of every toy model and seed.",
                caption="One dot for each represented feature; the seeds stand side by side, the lowest loss first."
                " Lines: the dimensionality in known figures. D\u1d62 = \u2016W\u1d62\u2016\u00b2 / \u03a3\u2c7c "
                "(\u0174\u1d62 \u00b7 W\u2c7c)\u00b2, and \u03a3 D\u1d62 is at most the number of hidden dimensions.",
                height_px=480,
            ),
        )


def _trace(place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    count = len(row["seeds"])
    x: list[float] = []
    y: list[float] = []
    for index, values in enumerate(row["seeds"]):
        offset = _SPREAD * ((index + 0.5) / count - 0.5)
        x += [place + offset] * len(values)
        y += values
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": {"color": "#0072b2", "size": 6, "opacity": 0.7},
        "hovertemplate": f"{escape(row['model'])}: D %{{y:.3f}}<extra></extra>",
    }


def _line(level: float) -> dict[str, Any]:
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
    return {**across, "line": {"color": GREY, "width": 1, "dash": "dot"}}


def _note(name: str, level: float, right: float) -> dict[str, Any]:
    below = name == "square antiprism"  # its line is close below that of the pentagon
    place = {"x": right, "xanchor": "left", "y": level, "yanchor": "top" if below else "bottom"}
    return {**place, "text": name, "showarrow": False, "font": {"size": 10}}


CARD = DimensionalityCard()
