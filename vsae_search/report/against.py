"""A metric of every trial against its L0, one mark per trial: what recovery and leakage are drawn with."""

from __future__ import annotations

import math
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from vsae_search.report.chart import GREY
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.view import FrontierView

_DIGITS = 4
_BAND = "rgba(139,144,152,0.22)"


def with_metric(data: ReportData, key: str) -> list[TrialRow]:
    """Completed trials that have an L0 and this metric."""
    return [row for row in data.trials if row.state == "completed" and None not in (row.l0, row.metrics.get(key))]


def null_band(data: ReportData, key: str) -> dict[str, float] | None:
    """Smallest, median and largest value of the metric's null over the trials that have the metric.

    Every trial has a null of its own: random dictionaries of as many latents as it has alive.
    """
    nulls = [null for row in with_metric(data, key) if (null := row.metrics.get(f"null_{key}")) is not None]
    return {"low": min(nulls), "middle": median(nulls), "high": max(nulls)} if nulls else None


def nearest_to_true_l0(data: ReportData, name: str, key: str) -> TrialRow | None:
    """The frontier trial of an architecture whose L0 is nearest to the true one in octaves; None without any."""
    true_l0 = data.sweep.true_l0
    rows = [row for row in data.frontier(name) if row.l0 and row.metrics.get(key) is not None]
    if not true_l0 or not rows:
        return None
    return min(rows, key=lambda row: (abs(math.log2((row.l0 or 1.0) / true_l0)), row.uid))


def frontier_marks(
    data: ReportData, view: FrontierView, key: str, *, axis: str = "y", visible: bool = True, legend: bool = True
) -> list[dict[str, Any]]:
    """One trace per architecture with its frontier trials.

    Args:
        data: The report.
        view: Where its L0 axis begins.
        key: The metric.
        axis: Y axis of the figure.
        visible: Whether they are shown at first.
        legend: Whether they stand in the legend.
    """
    shown = {row.uid for row in with_metric(data, key)}
    traces = []
    for entry in data.architectures:
        rows = [row for row in data.frontier(entry.name) if row.uid in shown]
        if rows:
            edge = {"width": 1, "color": "#ffffff"}
            marker = {"symbol": entry.symbol, "size": 10, "color": entry.colour, "line": edge}
            name = escape(entry.name)
            look = {"name": name, "legendgroup": name, "marker": marker, "showlegend": legend, "visible": visible}
            traces.append({**_points(rows, view, key), **look, "yaxis": axis})
    return traces


def other_marks(
    data: ReportData, view: FrontierView, key: str, *, axis: str = "y", visible: bool = True
) -> dict[str, Any]:
    """One grey trace with the completed trials of all architectures that are on no frontier; it may be empty."""
    rows = [row for row in with_metric(data, key) if not row.on_frontier]
    marker = {"symbol": "circle", "size": 6, "color": GREY, "opacity": 0.55}
    look = {"name": "dominated", "marker": marker, "showlegend": False, "visible": visible}
    return {**_points(rows, view, key), **look, "yaxis": axis}


def _points(rows: Sequence[TrialRow], view: FrontierView, key: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_short(max(row.l0 or 0.0, view.floor)) for row in rows],
        "y": [_short(row.metrics[key] or 0.0) for row in rows],
        "text": [escape(row.uid) for row in rows],
        "hoverinfo": "x+y+text",
    }


def _short(value: float) -> float:
    """Few digits: no pixel is finer."""
    return float(f"{value:.{_DIGITS}g}")


def band_shapes(band: Mapping[str, float] | None, axis: str = "y") -> list[dict[str, Any]]:
    """The null as a grey band with a dashed line at its median; none without a null."""
    if band is None:
        return []
    place = {"xref": "paper", "x0": 0, "x1": 1, "yref": axis, "layer": "below"}
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return [
        {"type": "rect", **place, "y0": band["low"], "y1": band["high"], "fillcolor": _BAND, "line": {"width": 0}},
        {"type": "line", **place, "y0": band["middle"], "y1": band["middle"], "line": line},
    ]


def true_l0_mark(data: ReportData) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line at the true L0 and its label above the plot, as shapes and annotations; both empty where it is unknown."""
    true_l0 = data.sweep.true_l0
    if not true_l0 or true_l0 <= 0:
        return [], []
    line = {"color": GREY, "width": 1, "dash": "dash"}
    place = {"x": math.log10(true_l0), "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "center"}
    note = {**place, "text": f"true L0 {number(true_l0)}", "showarrow": False, "font": {"size": 11}}
    return [{"type": "line", "yref": "paper", "x0": true_l0, "x1": true_l0, "y0": 0, "y1": 1, "line": line}], [note]
