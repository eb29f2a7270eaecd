"""Parallel coordinates: each trial of an architecture as a line through its hyper-parameters, L0 and delta_ce."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import pareto_rank
from vsae_search.report.build import is_eligible
from vsae_search.report.card import Control, Figure
from vsae_search.report.chart import GREY
from vsae_search.report.markup import Cell, Column, details, swatch, table
from vsae_search.report.searched import SearchedAxis, searched_axes
from vsae_search.report.text import listed, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.source import Source

FEWEST = 3
"""Completed trials below which lines show nothing."""
MOST_LINES = 40
"""Lines of one architecture: its frontier, the trials next behind it, and an even choice of the others."""
_OUTCOMES = ("L0", "delta-CE")
_LONGEST = 14


class ParallelCard:
    """One architecture at a time, the one with the largest hypervolume first."""

    name = "parallel"
    title = "Hyper-parameters of the trials"
    order = 52

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Per architecture its axes, the drawn lines as places on them, and the frontier's part of each axis."""
        found = []
        for entry in sorted(data.architectures, key=lambda one: -(one.hypervolume.value if one.hypervolume else 0.0)):
            rows = [row for row in data.trials if row.architecture == entry.name and is_eligible(row)]
            axes = searched_axes(entry, rows)
            if axes and len(rows) >= FEWEST:
                found.append({"architecture": entry.name, **_lines(axes, rows)})
        return {"architectures": found}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing is searched, or too few trials."""
        if data.cards["parallel"]["architectures"]:
            return None
        return f"No architecture has {FEWEST} completed trials and a hyper-parameter that differs between them."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure whose buttons choose the architecture, and a table of where the frontiers lie."""
        found = data.cards["parallel"]["architectures"]
        groups = [_traces(data, one) for one in found]
        owner = [index for index, traces in enumerate(groups) for _ in traces]
        traces = [{**trace, "visible": index == 0} for index, group in enumerate(groups) for trace in group]
        controls = [
            Control(
                one["architecture"],
                {f"xaxis.{key}": value for key, value in _axis(one).items()},
                pressed=index == 0,
                visible=[own == index for own in owner],
            )
            for index, one in enumerate(found)
        ]
        figure = Figure(
            spec={"data": traces, "layout": _layout(found[0])},
            alt="Hyper-parameters of the trials as lines. " + " ".join(map(_in_words, found)),
            caption=_caption(found),
            controls=[controls] if len(controls) > 1 else (),
            height_px=440,
        )
        return figure, details("Where the frontiers lie, hyper-parameter by hyper-parameter", _table(data, found))


def _lines(axes: Sequence[SearchedAxis], rows: Sequence[TrialRow]) -> dict[str, Any]:
    """Places of the drawn trials; rank 0 is the frontier, 1 what would be it without the frontier, 2 all others."""
    outcomes = [_outcome(name, [getattr(row, key) for row in rows]) for name, key in _keys()]
    points_N2 = np.array([(row.l0, row.delta_ce) for row in rows], dtype=np.float64)
    rank_N = np.minimum(pareto_rank(points_N2), 2)
    drawn = _drawn(rank_N.tolist())
    return {
        "axes": [{"name": axis.name, "ticks": [list(tick) for tick in axis.ticks()]} for axis in (*axes, *outcomes)],
        "lines": [
            {
                "uid": rows[n].uid,
                "rank": int(rank_N[n]),
                "places": [
                    *(round(axis.place(rows[n].params[axis.name]), 3) for axis in axes),
                    *(
                        round(axis.place(max(getattr(rows[n], key), axis.low)), 3)
                        for axis, (_, key) in zip(outcomes, _keys(), strict=True)
                    ),
                ],
            }
            for n in drawn
        ],
        "num_trials": len(rows),
        "frontier": [_span(axis, [row.params[axis.name] for row in rows if row.on_frontier]) for axis in axes],
    }


def _keys() -> list[tuple[str, str]]:
    return list(zip(_OUTCOMES, ("l0", "delta_ce"), strict=True))


def _outcome(name: str, values: Sequence[float]) -> SearchedAxis:
    """An outcome's axis: logarithmic where all values are positive."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return SearchedAxis(name, "log" if low > 0 else "linear", low, high)


def _drawn(ranks: Sequence[int]) -> list[int]:
    """Which trials are drawn: by rank, and of the last rank that does not fit an even choice."""
    drawn: list[int] = []
    for rank in range(3):
        own, room = [n for n, one in enumerate(ranks) if one == rank], MOST_LINES - len(drawn)
        drawn += own if len(own) <= room else [own[math.floor(k * len(own) / room)] for k in range(room)]
    return drawn


def _span(axis: SearchedAxis, values: Sequence[Any]) -> dict[str, Any]:
    """Values of a hyper-parameter on the frontier: its ends for numbers, the distinct ones for a choice."""
    ordered = sorted(values, key=axis.place)
    shown = list(dict.fromkeys(map(number, ordered))) if axis.scale == "choice" else []
    return {
        "parameter": axis.name,
        "searched": f"{axis.ticks()[0][1]} to {axis.ticks()[-1][1]}",
        "frontier": listed(shown) if shown else f"{number(ordered[0])} to {number(ordered[-1])}",
        "middle": number(ordered[(len(ordered) - 1) // 2]),
    }


def _traces(data: ReportData, one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All lines of a rank as one trace with gaps, the frontier last and on top, then the labels of the axes."""
    entry = data.architecture(one["architecture"])
    looks: list[tuple[int, str, dict[str, Any]]] = [
        (2, "other trials", {"line": {"color": GREY, "width": 1}, "opacity": 0.4}),
        (1, "next behind", {"line": {"color": entry.colour, "width": 1.2, "dash": "dot"}, "opacity": 0.8}),
        (0, "frontier", {"line": {"color": entry.colour, "width": 2.4}}),
    ]
    traces = []
    for rank, name, look in looks:
        lines = [line for line in one["lines"] if line["rank"] == rank]
        if lines:
            marks = {"marker": {"symbol": entry.symbol, "size": 6, "color": entry.colour}} if rank == 0 else {}
            hover = _hover(lines) if rank == 0 else {"hoverinfo": "skip"}
            mode = "lines+markers" if rank == 0 else "lines"
            traces.append({"type": "scatter", "name": name, **_path(lines), "mode": mode, **look, **marks, **hover})
    return [*traces, _labels(one)]


def _path(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    x: list[int | None] = []
    y: list[float | None] = []
    for line in lines:
        x += [*range(len(line["places"])), None]
        y += [*line["places"], None]
    return {"x": x, "y": y}


def _hover(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "hovertext": [text for line in lines for text in (*[escape(line["uid"])] * len(line["places"]), "")],
        "hoverinfo": "text",
    }


def _labels(one: Mapping[str, Any]) -> dict[str, Any]:
    """What a place on an axis means, beside the axis."""
    labels = [(index, at, text) for index, axis in enumerate(one["axes"]) for at, text in axis["ticks"]]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [index for index, _, _ in labels],
        "y": [at for _, at, _ in labels],
        "text": [escape(_short(text)) for _, _, text in labels],
        "textposition": ["bottom center" if at == 0 else "top center" for _, at, _ in labels],
        "textfont": {"size": 11},
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"


def _axis(one: Mapping[str, Any]) -> dict[str, Any]:
    count = len(one["axes"])
    return {
        "tickvals": list(range(count)),
        "ticktext": [escape(axis["name"]) for axis in one["axes"]],
        "range": [-0.3, count - 0.7],
    }


def _layout(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "xaxis": {"tickmode": "array", "zeroline": False, "gridwidth": 2, "automargin": True, **_axis(one)},
        "yaxis": {"visible": False, "range": [-0.12, 1.12], "fixedrange": True},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 24, "r": 24, "t": 64, "b": 44},
    }


def _in_words(one: Mapping[str, Any]) -> str:
    parts = [f"{span['parameter']} {span['frontier']} (searched {span['searched']})" for span in one["frontier"]]
    return f"Frontier of {one['architecture']}: {'; '.join(parts)}."


def _caption(found: Sequence[Mapping[str, Any]]) -> str:
    text = (
        "One line per completed trial, of one architecture at a time. Bold with marks: its frontier; dotted: what the "
        "frontier would be without those; grey: all others. L0 and delta-CE are logarithmic where they are positive."
    )
    if any(len(one["lines"]) < one["num_trials"] for one in found):
        text += f" At most {MOST_LINES} lines per architecture are drawn, an even choice of the others."
    return text


def _table(data: ReportData, found: Sequence[Mapping[str, Any]]) -> Markup:
    rows: list[list[Any]] = []
    for one in found:
        entry = data.architecture(one["architecture"])
        mark = Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name)
        rows += [
            [mark, span["parameter"], span["searched"], span["frontier"], span["middle"]] for span in one["frontier"]
        ]
    columns = ["architecture", "hyper-parameter", "values of the trials", "on the frontier", "its middle"]
    return table([Column(name) for name in columns], rows, caption="Hyper-parameters on the frontier", sortable=True)


CARD = ParallelCard()
