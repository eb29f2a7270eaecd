"""What becomes of features that occur together, or never together: how much of one is in the latent of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.against import (
    band_shapes,
    frontier_marks,
    nearest_to_true_l0,
    null_band,
    other_marks,
    true_l0_mark,
    with_metric,
)
from vsae_search.report.card import Control, Figure
from vsae_search.report.chart import l0_axis
from vsae_search.report.markup import Cell, Column, swatch, table
from vsae_search.report.text import listed, number
from vsae_search.report.view import frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

_KINDS = {"correlated": "", "anticorrelated": "anticorrelated_", "hierarchical": "hierarchical_"}
_MEASURES = {
    "response": ("response_leakage", "response to the partner / to the own feature"),
    "direction": ("leakage", "cosine with the partner beyond the true one"),
}


class LeakageCard:
    """Leakage between the features of a set against L0."""

    name = "leakage"
    title = "Leakage between features of a set"
    order = 640

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """What there is to show, each with its null, and per architecture the frontier trial nearest to the true L0."""
        views: list[dict[str, Any]] = [
            {"kind": kind, "measure": measure, "key": f"{prefix}{key}", "null": null_band(data, f"{prefix}{key}")}
            for kind, prefix in _KINDS.items()
            for measure, (key, _) in _MEASURES.items()
            if with_metric(data, f"{prefix}{key}")
        ]
        if not views:
            return {}
        near = {entry.name: nearest_to_true_l0(data, entry.name, views[0]["key"]) for entry in data.architectures}
        return {
            "views": views,
            "nearest": [
                {"architecture": name, "uid": row.uid, **{view["key"]: row.metrics.get(view["key"]) for view in views}}
                for name, row in near.items()
                if row is not None
            ],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """The subject has no sets of dependent features, or no trial could be measured."""
        if data.cards["leakage"] and frontier_view(data) is not None:
            return None
        if data.sweep.true_l0 is None:
            return "Leakage can be measured for toy subjects only; this subject's true features are not known."
        return "No completed trial has leakage numbers: no set of dependent features has two that are represented."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure; buttons choose kind of set and measure. Then a table."""
        view = frontier_view(data)
        assert view is not None, "unavailable() asks for it"
        views = data.cards["leakage"]["views"]
        groups = [
            [
                other_marks(data, view, entry["key"], visible=index == 0),
                *frontier_marks(data, view, entry["key"], visible=index == 0),
            ]
            for index, entry in enumerate(views)
        ]
        owner = [index for index, group in enumerate(groups) for _ in group]
        lines, notes = true_l0_mark(data)
        shapes = [[*lines, _zero(), *band_shapes(entry["null"])] for entry in views]
        controls = [
            Control(
                f"{entry['kind']}: {entry['measure']}",
                {"yaxis.title.text": _title(entry), "yaxis.autorange": True, "shapes": shapes[index]},
                pressed=index == 0,
                visible=[own == index for own in owner],
            )
            for index, entry in enumerate(views)
        ]
        layout = {
            "xaxis": l0_axis(view),
            "yaxis": {"title": {"text": _title(views[0])}, "zeroline": False},
            "shapes": shapes[0],
            "annotations": notes,
            "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1.08, "xanchor": "left", "yanchor": "bottom"},
            "margin": {"l": 72, "r": 16, "t": 64, "b": 56},
        }
        figure = Figure(
            spec={"data": [trace for group in groups for trace in group], "layout": layout},
            alt=_alt(data),
            caption=_caption(views),
            controls=[controls] if len(controls) > 1 else (),
            height_px=520 + 14 * max(0, len(data.architectures) - 6),
        )
        return figure, _table(data)


def _title(view: Mapping[str, Any]) -> str:
    return f"{view['kind']} sets: {_MEASURES[view['measure']][1]}"


def _zero() -> dict[str, Any]:
    """A line at no leakage."""
    line = {"color": "#8b9098", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": line, "layer": "below"}


def _alt(data: ReportData) -> str:
    found = data.cards["leakage"]
    first = found["views"][0]
    words = [
        f"{entry['architecture']} {number(entry[first['key']])} at L0 {number(data.trial(entry['uid']).l0)}"
        for entry in found["nearest"]
    ]
    return f"Leakage against L0; {_title(first)}. Nearest to the true L0: {'; '.join(words) or 'no frontier trial'}."


def _caption(views: Sequence[Mapping[str, Any]]) -> str:
    measures = {view["measure"] for view in views}
    words = []
    if "response" in measures:
        words.append(
            "Response: how strongly the latent of a feature responds to the value of a partner from the same set, over "
            "how strongly it responds to its own; 0 is none, 1 cannot tell them apart."
        )
    if "direction" in measures:
        words.append(
            "Direction: cosine of the latent's decoder row with the partner, less that of the true directions; 0 is "
            "the truth."
        )
    if any(view["null"] for view in views):
        words.append(
            "Its grey band and dashed line: random dictionaries, smallest to largest and median over the trials."
        )
    if "response" not in measures:
        words.append("Responses were not measured in this sweep.")
    return f"{' '.join(words)} Lower is better. Grey dots: dominated trials. Definitions: docs/metrics.md."


def _table(data: ReportData) -> Part:
    found = data.cards["leakage"]
    columns = [
        Column("architecture"),
        Column("L0", numeric=True, hint="Of the frontier trial whose L0 is nearest to the true one"),
        *(Column(f"{view['kind']}: {view['measure']}", numeric=True, hint=_title(view)) for view in found["views"]),
    ]
    rows: list[list[Any]] = []
    for own in found["nearest"]:
        entry, trial = data.architecture(own["architecture"]), data.trial(own["uid"])
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name),
                Cell(number(trial.l0), sort=trial.l0),
                *(Cell(number(own[view["key"]]), sort=own[view["key"]]) for view in found["views"]),
            ]
        )
    kinds = listed(list(dict.fromkeys(view["kind"] for view in found["views"])))
    return table(columns, rows, caption=f"Leakage in {kinds} sets, nearest to the true L0", sortable=True)


CARD = LeakageCard()
