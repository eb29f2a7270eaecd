"""How much of the truth is found at which L0, next to what random dictionaries find."""

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
from vsae_search.report.markup import Cell, Column, link, swatch, table
from vsae_search.report.text import counted, number, percent
from vsae_search.report.view import frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.source import Source

MEASURES = (
    ("mmcs", "MMCS", "y", (0.54, 1.0)),
    ("recovered_fraction", "share above 0.9", "y2", (0.0, 0.46)),
)
"""Metric, title of its axis, the axis, and the part of the figure's height that it takes."""


class RecoveryCard:
    """MMCS and recovered share of every trial against L0."""

    name = "recovery"
    title = "Recovery of the true features against L0"
    order = 630

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """The null of both measures, and per architecture its best trial and the one nearest to the true L0."""
        if not with_metric(data, "mmcs"):
            return {}
        return {
            "nulls": {key: null_band(data, key) for key, *_ in MEASURES},
            "num_trials": len(with_metric(data, "mmcs")),
            "above_null": sum(_above(row) for row in with_metric(data, "mmcs")),
            "architectures": [entry for name in data.architectures if (entry := _architecture(data, name.name))],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No completed trial has recovery numbers."""
        if data.cards["recovery"] and frontier_view(data) is not None:
            return None
        if data.sweep.true_l0 is None:
            return "Recovery can be measured for toy subjects only; this subject's true features are not known."
        return "No completed trial has recovery numbers."

    def render(self, data: ReportData) -> Sequence[Part]:
        """Two panels on one L0 axis; buttons choose the trials. Then a table."""
        view = frontier_view(data)
        assert view is not None, "unavailable() asks for it"
        marks: list[dict[str, Any]] = []
        grey: list[dict[str, Any]] = []
        shapes, notes = true_l0_mark(data)
        layout: dict[str, Any] = {"xaxis": {**l0_axis(view), "anchor": "y2"}}
        for place, (key, title, axis, domain) in enumerate(MEASURES):
            marks += frontier_marks(data, view, key, axis=axis, legend=place == 0)
            grey.append(other_marks(data, view, key, axis=axis))
            shapes = [*shapes, *band_shapes(data.cards["recovery"]["nulls"][key], axis)]
            name = "yaxis" if axis == "y" else "yaxis2"
            layout[name] = {"title": {"text": title}, "domain": list(domain), "range": [-0.03, 1.04], "anchor": "x"}
        layout |= {
            "shapes": shapes,
            "annotations": notes,
            "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1.06, "xanchor": "left", "yanchor": "bottom"},
            "margin": {"l": 60, "r": 16, "t": 64, "b": 56},
        }
        choices = (("all completed trials", True), ("frontier trials", False))
        controls = [
            Control(label, {}, pressed=every, visible=[every] * len(grey) + [True] * len(marks))
            for label, every in choices
        ]
        figure = Figure(
            spec={"data": [*grey, *marks], "layout": layout},
            alt=_alt(data),
            caption=_caption(data),
            controls=[controls],
            height_px=640 + 14 * max(0, len(data.architectures) - 6),
        )
        return figure, _table(data)


def _above(row: TrialRow) -> bool:
    """Whether a trial finds more than random dictionaries of as many living latents."""
    null = row.metrics.get("null_mmcs")
    return null is not None and (row.metrics["mmcs"] or 0.0) > null


def _architecture(data: ReportData, name: str) -> dict[str, Any] | None:
    rows = [row for row in with_metric(data, "mmcs") if row.architecture == name]
    if not rows:
        return None
    best = min(rows, key=lambda row: (-(row.metrics["mmcs"] or 0.0), row.uid))
    near = nearest_to_true_l0(data, name, "mmcs")
    return {"architecture": name, "best": best.uid, "nearest": near.uid if near else None}


def _alt(data: ReportData) -> str:
    found = data.cards["recovery"]
    words = []
    for entry in found["architectures"]:
        row = data.trial(entry["best"])
        words.append(f"{entry['architecture']} {number(row.metrics['mmcs'])} at L0 {number(row.l0)}")
    return (
        f"MMCS and share of recovered features against L0. Best MMCS: {'; '.join(words)}. "
        f"Random dictionaries: {_null_text(found)}."
    )


def _null_text(found: Mapping[str, Any]) -> str:
    band = found["nulls"]["mmcs"]
    return "not measured" if band is None else f"MMCS {number(band['low'])} to {number(band['high'])}"


def _caption(data: ReportData) -> str:
    found = data.cards["recovery"]
    text = (
        "Above: mean over true features of the largest cosine with a decoder row (MMCS). Below: share of features "
        "whose matched latent has a cosine above 0.9. Grey band and dashed line: the same numbers of random "
        "dictionaries, smallest to largest and median over the trials, each with as many latents as are alive "
        f"({_null_text(found)}). {counted(found['above_null'], 'trial')} of {found['num_trials']} are above their own. "
        "Grey dots: dominated trials."
    )
    return text if data.sweep.true_l0 is None else f"{text} Dashed: the true L0, {number(data.sweep.true_l0)}."


def _table(data: ReportData) -> Part:
    columns = [
        Column("architecture"),
        Column("best MMCS", numeric=True, hint="Over its completed trials"),
        Column("null", numeric=True, hint="MMCS of random dictionaries of as many living latents"),
        Column("above 0.9", numeric=True, hint="Features whose matched latent has a cosine above 0.9"),
        Column("null", numeric=True, hint="The same of random dictionaries"),
        Column("at L0", numeric=True),
        Column("trial"),
        Column("MMCS near true L0", numeric=True, hint="Of the frontier trial whose L0 is nearest to the true one"),
        Column("at L0", numeric=True),
    ]
    rows: list[list[Any]] = []
    for found in data.cards["recovery"]["architectures"]:
        entry, best = data.architecture(found["architecture"]), data.trial(found["best"])
        near = data.trial(found["nearest"]).metrics if found["nearest"] else {}
        near_l0 = data.trial(found["nearest"]).l0 if found["nearest"] else None
        own = best.metrics
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name),
                Cell(number(own["mmcs"]), sort=own["mmcs"]),
                Cell(number(own.get("null_mmcs")), sort=own.get("null_mmcs")),
                Cell(percent(own.get("recovered_fraction")), sort=own.get("recovered_fraction")),
                Cell(percent(own.get("null_recovered_fraction")), sort=own.get("null_recovered_fraction")),
                Cell(number(best.l0), sort=best.l0),
                link(best.run_url, best.uid),
                Cell(number(near.get("mmcs")), sort=near.get("mmcs")),
                Cell(number(near_l0), sort=near_l0),
            ]
        )
    return table(columns, rows, caption="Recovery by architecture", sortable=True)


CARD = RecoveryCard()
