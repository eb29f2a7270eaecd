"""The frontier of each architecture: the band of its confirmed runs, or a staircase through the trials of the search.

With confirmed runs, the solid steps are what half of the seeds attain and the band is what 25 to 75 % of them do; the
trials of the search stay as open marks. Without, the solid steps join the search's non-dominated trials. More
architectures than one panel can show are drawn by family, each with the best of all others in grey.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.frontier import pooled_frontier
from vsae_search.report.bands import bands, surface
from vsae_search.report.card import Figure
from vsae_search.report.chart import GREY, between, plane, scales, steps
from vsae_search.report.families import families
from vsae_search.report.metrics import headline
from vsae_search.report.references import COLOUR, SYMBOL, drawable, references_table
from vsae_search.report.replicated import seeds_text
from vsae_search.report.text import counted, listed, number
from vsae_search.report.view import FrontierView, Series, box_text, frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.metrics import Metric
    from vsae_search.report.source import Source

MOST_DOMINATED = 500
"""Dominated trials up to which their hyper-parameters are in the page; beyond, they would make it too large to mail."""


class FrontierCard:
    """L0 against delta_ce, one staircase per architecture."""

    name = "frontier"
    title = "Frontier per architecture"
    order = 30

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Attainment surfaces of the confirmed runs, by architecture."""
        return {"bands": bands(data)}

    def unavailable(self, data: ReportData) -> str | None:
        """No completed trial with a finite L0 and delta_ce."""
        if frontier_view(data) is None:
            return "No trial was completed with a finite L0 and delta_ce, so there is no frontier to draw."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """One interactive figure, or one with all staircases and one per family."""
        view = frontier_view(data)
        assert view is not None, "render is called only when unavailable() returned None"
        groups = families([series.name for series in view.series if series.corners or series.dominated])
        listed_references = (references_table(data),) if data.references else ()
        if len(groups) == 1:
            return (_figure(data, view, view.series, caption=_caption(data, view)), *listed_references)
        figures = [_figure(data, view, view.series, caption=_caption(data, view), lines_only=True)]
        for title, members in groups.items():
            own = [series for series in view.series if series.name in members]
            text = Markup("<strong>{}</strong>: {}. Grey steps: the best of all other architectures.")
            rest = [series for series in view.series if series.name not in members]
            figures.append(_figure(data, view, own, rest=rest, caption=text.format(title, listed(members))))
        return (*figures, *listed_references)


def _figure(
    data: ReportData,
    view: FrontierView,
    shown: Sequence[Series],
    *,
    caption: Markup,
    rest: Sequence[Series] = (),
    lines_only: bool = False,
) -> Figure:
    found = data.cards.get("frontier", {}).get("bands", {})
    metrics, end = headline(data), data.axes.reference.l0 if data.axes.reference else None
    best = [surface(found.get(series.name), 0.5) if found else series.corners for series in rest]
    traces = [_others(best, view)] if any(best) else []
    if not lines_only:
        short = sum(len(series.dominated) for series in view.series) > MOST_DOMINATED
        traces += [_dominated(series, view, metrics, short=short) for series in shown if series.dominated]
        traces += [trace for series in shown for trace in _band(series, view, found.get(series.name), end)]
    traces += [_tail(series) for series in shown if series.tail and series.name not in found]
    for series in shown:
        median = surface(found.get(series.name), 0.5)
        if median:
            traces.append(_median(series, view, median, end))
        if series.corners:
            marks = _marks(series, view, () if lines_only else metrics, hollow=bool(median), short=lines_only)
            traces += [marks] if median and lines_only else [_steps(series, faint=bool(median)), marks]
    traces += _elsewhere(data, view, metrics)
    return Figure(
        spec={"data": traces, "layout": plane(data, view)},
        alt=_alt(data, [series.name for series in shown]),
        caption=caption,
        controls=scales(view),
        height_px=560 + 14 * max(0, len(shown) - 6),  # room for the rows of the legend
    )


def _base(series: Series) -> dict[str, Any]:
    return {"type": "scatter", "name": escape(series.name), "legendgroup": escape(series.name)}


def _line(series: Series, x: Sequence[float], y: Sequence[float], **line: Any) -> dict[str, Any]:
    """The staircase; drawn as ``hv``, because nothing better than the sparser trial has been reached in between."""
    look = {"shape": "hv", "color": series.colour, **line}
    return {
        **_base(series),
        **{"x": list(x), "y": list(y), "mode": "lines", "line": look},
        **{"hoverinfo": "skip", "showlegend": False},
    }


def _steps(series: Series, *, faint: bool) -> dict[str, Any]:
    x, y = (list(column) for column in zip(*series.corners, strict=True))
    return _line(series, x, y, **({"width": 1, "dash": "dot"} if faint else {"width": 2.5}))


def _median(
    series: Series, view: FrontierView, corners: Sequence[tuple[float, float]], end: float | None
) -> dict[str, Any]:
    return _line(series, *steps(corners, end, view.floor), width=2.5)


def _tail(series: Series) -> dict[str, Any]:
    assert series.tail is not None
    x, y = (list(column) for column in zip(series.corners[-1], series.tail, strict=True))
    return _line(series, x, y, width=1.5, dash="dot", shape="linear")


def _band(series: Series, view: FrontierView, band: Any, end: float | None) -> list[dict[str, Any]]:
    """What 25 % of the seeds attain and 75 % do not."""
    lower, upper = surface(band, 0.25), surface(band, 0.75)
    if not lower:
        return []
    end = end or view.l0_range[1]
    top = max(view.linear_range[1], max(delta_ce for _, delta_ce in lower))
    x, y = between(steps(lower, end, view.floor), steps(upper, end, view.floor), top)
    fill = {"x": x, "y": y, "mode": "lines", "line": {"width": 0}, "fill": "toself"}
    return [
        {
            **_base(series),
            **fill,
            "fillcolor": _translucent(series.colour),
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _others(rest: Sequence[Sequence[tuple[float, float]]], view: FrontierView) -> dict[str, Any]:
    """The pooled staircase of other architectures: of what half of the seeds attain wherever that is drawn solid."""
    corners = pooled_frontier([corners for corners in rest if corners]).tolist()
    x, y = steps([(l0, delta_ce) for l0, delta_ce in corners], floor=view.floor)
    line = {"shape": "hv", "color": GREY, "width": 1.5}
    look = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": True}
    return {"type": "scatter", "name": "best of the others", "x": x, "y": y, **look}


def _marks(
    series: Series, view: FrontierView, metrics: Sequence[Metric], *, hollow: bool, short: bool
) -> dict[str, Any]:
    symbol = f"{series.symbol}-open" if hollow else series.symbol
    edge = {"width": 1, "color": series.colour if hollow else "#ffffff"}
    marker = {"symbol": symbol, "size": 8 if hollow else 10, "color": series.colour, "line": edge}
    points = _points(series.frontier, view, metrics, short=short)
    return {**_base(series), **points, "marker": marker, "showlegend": True}


def _elsewhere(data: ReportData, view: FrontierView, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """The references, each with its label beside the mark."""
    rows = drawable(data)
    if not rows:
        return []
    look = {"symbol": SYMBOL, "size": 12, "color": COLOUR, "line": {"width": 1.5, "color": COLOUR}}
    hovers = [
        "<br>".join(
            [
                f"<b>{escape(row.label)}</b> (reference, {escape(row.class_name)})",
                f"L0 {number(l0, 4)} &#183; delta-CE {number(delta_ce, 4)}",
                *(f"{metric.title} {metric.text(row)}" for metric in metrics),
            ]
        )
        for row, l0, delta_ce in rows
    ]
    return [
        {
            "type": "scatter",
            "name": "references",
            "mode": "markers+text",
            "x": [max(l0, view.floor) for _, l0, _ in rows],
            "y": [delta_ce for _, _, delta_ce in rows],
            "text": [escape(_short(row.label)) for row, _, _ in rows],
            "textposition": "top center",
            "textfont": {"size": 11},
            "marker": look,
            "hovertext": hovers,
            "hoverinfo": "text",
            "showlegend": True,
        }
    ]


def _dominated(series: Series, view: FrontierView, metrics: Sequence[Metric], *, short: bool) -> dict[str, Any]:
    marker = {"symbol": series.symbol, "size": 6, "color": GREY, "opacity": 0.5}
    points = _points(series.dominated, view, metrics, short=short)
    for axis in "xy":  # grey dots by the thousand: five digits are finer than a pixel and a third of the bytes
        points[axis] = [float(f"{value:.5g}") for value in points[axis]]
    return {**_base(series), **points, "marker": marker, "showlegend": False}


def _points(rows: Sequence[TrialRow], view: FrontierView, metrics: Sequence[Metric], *, short: bool) -> dict[str, Any]:
    return {
        "x": [max(row.l0 or 0.0, view.floor) for row in rows],
        "y": [row.delta_ce for row in rows],
        "mode": "markers",
        "hovertext": [_hover(row, metrics, short=short) for row in rows],
        "hoverinfo": "text",
        "customdata": [row.run_url for row in rows],
    }


def _hover(row: TrialRow, metrics: Sequence[Metric], *, short: bool) -> str:
    """Plotly reads a few tags in hovers, so every stored string is escaped."""
    lines = [f"<b>{escape(row.uid)}</b>", f"L0 {number(row.l0, 4)} &#183; delta-CE {number(row.delta_ce, 4)}"]
    if short:
        return "<br>".join(lines)
    lines += [f"{metric.title} {metric.text(row)}" for metric in metrics]
    lines += ["", *(f"{escape(key)} = {escape(_short(number(value, 4)))}" for key, value in row.params.items())]
    lines += [f"seed {row.seed} &#183; {number(row.wall_s)} s"]
    if row.run_url:
        lines.append("<i>click: open in MLflow</i>")
    return "<br>".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _alt(data: ReportData, names: Sequence[str]) -> str:
    parts = [
        f"{entry.name} from L0 {number(entry.staircase.l0[0])} at delta-CE {number(entry.staircase.delta_ce[0])} "
        f"to L0 {number(entry.staircase.l0[-1])} at {number(entry.staircase.delta_ce[-1])}"
        for entry in data.architectures
        if entry.staircase.l0 and entry.name in names
    ]
    return f"Pareto frontiers, L0 against delta-CE, lower left is better. {'; '.join(parts)}."


def _caption(data: ReportData, view: FrontierView) -> Markup:
    names = listed([entry.name for entry in data.architectures if not entry.staircase.l0])
    text = Markup("Lower left is better. {} Grey: dominated trials. {}").format(
        _what_is_drawn(data), _how_to_read(data)
    )
    if sum(len(series.dominated) for series in view.series) > MOST_DOMINATED:
        text += Markup(" Hyper-parameters of dominated trials are in <code>tables/trials.csv</code>.")
    if view.hidden:
        text += Markup(" {} above the linear range.").format(counted(view.hidden, "trial lies", "trials lie"))
    if names:
        text += Markup(" Without a frontier: {}.").format(names)
    return text + Markup(" {}").format(box_text(data))


def _what_is_drawn(data: ReportData) -> str:
    if data.cards.get("frontier", {}).get("bands"):
        return (
            f"Solid steps: what half of the seeds attain on held-out rows ({seeds_text(data)}); band: 25 to 75 % of "
            "them. Open marks and dotted steps: trials of the search, whose scores are too good because they were "
            "chosen by them."
        )
    return (
        "Solid steps join the non-dominated trials of an architecture: between two of them the better delta-CE has "
        "not been reached. Dotted: the last level carried to the reference L0."
    )


def _how_to_read(data: ReportData) -> str:
    runs = any(row.run_url for row in data.trials)
    click = "click it to open its MLflow run" if runs else "the tables list the same numbers"
    return f"Point at a mark for its hyper-parameters; {click}. Drag to zoom, double-click to zoom out."


CARD = FrontierCard()
