"""The frontier of each architecture: a staircase through its non-dominated trials, with the dominated ones in grey."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.report.card import Control, Figure
from vsae_search.report.metrics import headline
from vsae_search.report.text import counted, listed, number
from vsae_search.report.view import (
    FrontierView,
    Series,
    box_text,
    delta_ce_title,
    frontier_view,
    l0_marks,
    l0_title,
    tick_label,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.metrics import Metric

GREY = "#8b9098"


class FrontierCard:
    """L0 against delta_ce, one staircase per architecture."""

    name = "frontier"
    title = "Frontier per architecture"
    order = 30

    def unavailable(self, data: ReportData) -> str | None:
        """No completed trial with a finite L0 and delta_ce."""
        if frontier_view(data) is None:
            return "No trial was completed with a finite L0 and delta_ce, so there is no frontier to draw."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """One interactive figure."""
        view = frontier_view(data)
        assert view is not None, "render is called only when unavailable() returned None"
        return (
            Figure(
                spec={"data": _traces(data, view), "layout": _layout(data, view)},
                alt=_alt(data),
                caption=_caption(data, view),
                controls=_controls(view),
                height_px=560 + 14 * max(0, len(view.series) - 6),  # room for the rows of the legend
            ),
        )


def _traces(data: ReportData, view: FrontierView) -> list[dict[str, Any]]:
    metrics = headline(data)
    traces: list[dict[str, Any]] = [_dominated(series, view, metrics) for series in view.series if series.dominated]
    traces += [_tail(series) for series in view.series if series.tail]
    for series in view.series:
        if series.corners:
            traces += [_steps(series), _marks(series, view, metrics)]
    return traces


def _base(series: Series) -> dict[str, Any]:
    return {"type": "scatter", "name": escape(series.name), "legendgroup": escape(series.name)}


def _steps(series: Series) -> dict[str, Any]:
    """The staircase; drawn as ``hv``, because nothing better than the sparser trial has been reached in between."""
    x, y = (list(column) for column in zip(*series.corners, strict=True))
    line = {"shape": "hv", "color": series.colour, "width": 2.5}
    return {**_base(series), "x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}


def _tail(series: Series) -> dict[str, Any]:
    assert series.tail is not None
    x, y = (list(column) for column in zip(series.corners[-1], series.tail, strict=True))
    line = {"color": series.colour, "width": 1.5, "dash": "dot"}
    return {**_base(series), "x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}


def _marks(series: Series, view: FrontierView, metrics: Sequence[Metric]) -> dict[str, Any]:
    marker = {"symbol": series.symbol, "size": 10, "color": series.colour, "line": {"width": 1, "color": "#ffffff"}}
    return {**_base(series), **_points(series.frontier, view, metrics), "marker": marker, "showlegend": True}


def _dominated(series: Series, view: FrontierView, metrics: Sequence[Metric]) -> dict[str, Any]:
    marker = {"symbol": series.symbol, "size": 6, "color": GREY, "opacity": 0.5}
    return {**_base(series), **_points(series.dominated, view, metrics), "marker": marker, "showlegend": False}


def _points(rows: Sequence[TrialRow], view: FrontierView, metrics: Sequence[Metric]) -> dict[str, Any]:
    return {
        "x": [max(row.l0 or 0.0, view.floor) for row in rows],
        "y": [row.delta_ce for row in rows],
        "mode": "markers",
        "hovertext": [_hover(row, metrics) for row in rows],
        "hoverinfo": "text",
        "customdata": [row.run_url for row in rows],
    }


def _hover(row: TrialRow, metrics: Sequence[Metric]) -> str:
    """Plotly reads a few tags in hovers, so every stored string is escaped."""
    lines = [f"<b>{escape(row.uid)}</b>", f"L0 {number(row.l0, 4)} &#183; delta-CE {number(row.delta_ce, 4)}"]
    lines += [f"{metric.title} {metric.text(row)}" for metric in metrics]
    lines += ["", *(f"{escape(key)} = {escape(_short(number(value, 4)))}" for key, value in row.params.items())]
    lines += [f"seed {row.seed} &#183; {number(row.wall_s)} s"]
    if row.run_url:
        lines.append("<i>click: open in MLflow</i>")
    return "<br>".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _layout(data: ReportData, view: FrontierView) -> dict[str, Any]:
    shapes, notes = _marks_of_reference(data, view)
    ticks = {"tickvals": list(view.l0_ticks), "ticktext": [tick_label(tick) for tick in view.l0_ticks]}
    l0_range = [math.log10(end) for end in view.l0_range]
    return {
        "xaxis": {"type": "log", "title": {"text": l0_title()}, "range": l0_range, "tickmode": "array", **ticks},
        "yaxis": {"title": {"text": escape(delta_ce_title(data))}, **_y_axis(view, view.scale)},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.05, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 72, "r": 24, "t": 64, "b": 60},
        "shapes": shapes,
        "annotations": notes,
    }


def _y_axis(view: FrontierView, scale: str) -> dict[str, Any]:
    if scale == "log":
        assert view.log_range is not None
        return {"type": "log", "range": [math.log10(end) for end in view.log_range], "exponentformat": "power"}
    return {"type": "linear", "range": list(view.linear_range)}


def _controls(view: FrontierView) -> Sequence[Sequence[Control]]:
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


def _alt(data: ReportData) -> str:
    parts = [
        f"{entry.name} from L0 {number(entry.staircase.l0[0])} at delta-CE {number(entry.staircase.delta_ce[0])} "
        f"to L0 {number(entry.staircase.l0[-1])} at {number(entry.staircase.delta_ce[-1])}"
        for entry in data.architectures
        if entry.staircase.l0
    ]
    return f"Pareto frontiers, L0 against delta-CE, lower left is better. {'; '.join(parts)}."


def _caption(data: ReportData, view: FrontierView) -> Markup:
    names = listed([entry.name for entry in data.architectures if not entry.staircase.l0])
    text = Markup(
        "Lower left is better. Solid steps join the non-dominated trials of an architecture: between two of them the "
        "better delta-CE has not been reached. Dotted: the last level carried to the reference L0. Grey: dominated "
        "trials. Point at a mark for its hyper-parameters; {}. Drag to zoom, double-click to zoom out."
    ).format(
        "click it to open its MLflow run"
        if any(row.run_url for row in data.trials)
        else "the tables list the same numbers"
    )
    if view.hidden:
        text += Markup(" {} above the linear range.").format(counted(view.hidden, "trial lies", "trials lie"))
    if names:
        text += Markup(" Without a frontier: {}.").format(names)
    return text + Markup(" {}").format(box_text(data))


CARD = FrontierCard()
