"""The optimism gap: how much better the search scored its frontier than held-out rows and new seeds do."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import optimism
from vsae_search.report.card import Figure
from vsae_search.report.chart import plane, scales
from vsae_search.report.markup import Cell, Column, paragraph, swatch, table
from vsae_search.report.replicated import box, counted, not_confirmed, replicates
from vsae_search.report.text import DASH, number, percent, points, ranged
from vsae_search.report.view import frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source


class OptimismCard:
    """Search score minus confirmed score."""

    name = "optimism"
    title = "Optimism gap"
    order = 42

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Per architecture: gaps of hypervolume and mean delta_ce, and of every configuration."""
        return {"architectures": [_gaps(data, name) for name in replicates(data)]}

    def unavailable(self, data: ReportData) -> str | None:
        """Not confirmed."""
        return not_confirmed(data, "How much luck is in the scores of the search")

    def render(self, data: ReportData) -> Sequence[Part]:
        """A table of architectures and a figure of configurations."""
        rows = [_row(data, entry) for entry in data.cards["optimism"]["architectures"]]
        columns = [
            Column("architecture"),
            Column("seeds", numeric=True),
            Column("configurations", numeric=True),
            Column("hypervolume, search", numeric=True),
            Column("confirmed", numeric=True),
            Column("gap", numeric=True, hint="Search minus confirmed, percentage points; above zero: too optimistic"),
            Column("95 % interval", numeric=True),
            Column("mean delta-CE gap", numeric=True, hint="Search minus confirmed; below zero: too optimistic"),
            Column("95 % interval", numeric=True),
        ]
        caption = "Score of the search minus score on held-out rows with new seeds"
        parts: list[Part] = [table(columns, rows, caption=caption, sortable=True), *_figure(data)]
        return (*parts, paragraph(_NOTE, "note"))


_NOTE = (
    "The search chose these configurations for their scores, so part of a score is luck. Both scores are of the same "
    "configurations. The gap also holds the difference between the evaluation rows and the held-out rows. Intervals "
    "are over seeds, given the scores of the search."
)


def _gaps(data: ReportData, name: str) -> dict[str, Any]:
    assert data.confirmation is not None
    runs, corners = replicates(data)[name], box(data)
    searched = {row.uid: (row.search.l0, row.search.delta_ce) for row in data.confirmation.configurations}
    search_N2 = counted(np.array([searched[uid] for uid in runs.configurations], dtype=np.float64), data)
    reference, ideal = corners or (None, None)
    found = optimism(search_N2, runs, reference, ideal=ideal)
    return {"num_runs": runs.num_runs, **asdict(found)}


def _row(data: ReportData, entry: Mapping[str, Any]) -> list[Any]:
    look = data.architecture(entry["architecture"])
    area, mean = entry["hypervolume"] or {}, entry["mean_delta_ce"] or {}
    return [
        Cell(swatch(look.colour, look.symbol) + look.name, sort=look.name),
        str(entry["num_runs"]),
        str(len(entry["configurations"])),
        Cell(percent(area.get("search"), 1), sort=area.get("search")),
        Cell(percent(area.get("confirmed"), 1), sort=area.get("confirmed")),
        Cell(points(area.get("gap")), sort=area.get("gap")),
        _interval(area, points),
        Cell(number(mean.get("gap")), sort=mean.get("gap")),
        _interval(mean, number),
    ]


def _interval(gap: Mapping[str, Any], shown: Any) -> str:
    interval = gap.get("interval")
    return DASH if interval is None else ranged(interval["low"], interval["high"], shown)


def _figure(data: ReportData) -> list[Part]:
    """From the score of the search (open) to the mean of the seeds (filled), one line per configuration."""
    view = frontier_view(data)
    if view is None:
        return []
    traces = [trace for entry in data.cards["optimism"]["architectures"] for trace in _moves(data, entry, view.floor)]
    return [
        Figure(
            spec={"data": traces, "layout": plane(data, view)},
            alt="Every confirmed configuration, from the score of the search to the mean of its seeds.",
            caption="Open mark: score of the search. Filled mark: mean over seeds on held-out rows.",
            controls=scales(view),
            height_px=480,
        )
    ]


def _moves(data: ReportData, entry: Mapping[str, Any], floor: float) -> list[dict[str, Any]]:
    look = data.architecture(entry["architecture"])
    x: list[float | None] = []
    y: list[float | None] = []
    labels: list[str] = []
    for uid, l0, delta_ce in zip(entry["configurations"], entry["l0"], entry["delta_ce"], strict=True):
        if l0["gap"] is None or delta_ce["gap"] is None:
            continue
        for score in ("search", "confirmed"):
            x.append(max(l0[score], floor))
            y.append(delta_ce[score])
            labels.append(f"{escape(uid)}, {score}: L0 {number(l0[score], 4)}, delta-CE {number(delta_ce[score], 4)}")
        x.append(None)
        y.append(None)
        labels.append("")
    symbols = [f"{look.symbol}-open", look.symbol, look.symbol] * (len(x) // 3)
    marker = {"symbol": symbols, "size": 8, "color": look.colour}
    line = {"color": look.colour, "width": 1}
    base = {"type": "scatter", "name": escape(look.name), "mode": "lines+markers", "line": line, "marker": marker}
    return [{**base, "x": x, "y": y, "hovertext": labels, "hoverinfo": "text"}] if x else []


CARD = OptimismCard()
