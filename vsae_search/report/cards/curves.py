"""How training went for some frontier trials: loss, L0, dead latents and KL against training rows."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.examples import HIGH, LOW, MIDDLE, examples, which
from vsae_search.report.markup import Cell, Column, link, swatch, table
from vsae_search.report.text import DASH, listed, number, percent, power_of_ten
from vsae_search.search.curves import read_curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.examples import Example
    from vsae_search.report.source import Source

MOST_POINTS = 50
"""Points of one curve in the page, evenly spread over the logarithm of the rows seen."""
PANELS = {"loss": "loss", "l0": "L0", "dead": "dead, %", "kl": "KL"}
"""Name of the numbers and title of the axis."""
_COLUMNS = {"loss": "total", "l0": "l0", "dead": "dead_fraction", "kl": "kl"}
_MOST_MARKS = 8
_DASHES = {LOW: "dot", MIDDLE: "solid", HIGH: "dash"}
_GAP = 0.05
MOST_TICKS = 6
"""Ticks of a logarithmic axis."""


class CurvesCard:
    """One panel per quantity above a common axis of training rows."""

    name = "curves"
    title = "Training curves of frontier trials"
    order = 54

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """The curves, thinned out; trials without one are named."""
        trials, without = [], []
        for one in examples(data):
            record = read_curve(source.folder(one.trial.uid))
            row = _thinned(one, record.columns) if record is not None else None
            if row is None:
                without.append(one.trial.uid)
            else:
                trials.append(row)
        return {"trials": trials, "without": without}

    def unavailable(self, data: ReportData) -> str | None:
        """No frontier trial, or none with a curve."""
        found = data.cards["curves"]
        if found["trials"]:
            return None
        if found["without"]:
            return "No frontier trial recorded how its training went (curve.json)."
        return "No architecture has a frontier trial."

    def render(self, data: ReportData) -> Sequence[Part]:
        """The panels and a table of where each curve began and ended."""
        found = data.cards["curves"]
        shown = [panel for panel in PANELS if any(row[panel] for row in found["trials"])]
        traces = [
            _trace(data, row, panel, place)
            for row in found["trials"]
            for place, panel in enumerate(shown)
            if row[panel]
        ]
        return (
            Figure(
                spec={"data": traces, "layout": _layout(found["trials"], shown)},
                alt="Training curves. " + " ".join(_in_words(row) for row in found["trials"]),
                caption=_caption(data, found),
                height_px=110 + 170 * len(shown) + 7 * len(found["trials"]),
            ),
            _table(data, found["trials"]),
        )


def _thinned(one: Example, columns: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """A trial's curve at places of about equal ratios; None when it has no point or lacks a quantity."""
    if not columns.get("tokens") or not {"total", "l0", "dead_fraction"} <= columns.keys():
        return None
    tokens_N = np.array(columns["tokens"], dtype=np.float64)
    wanted = np.geomspace(max(tokens_N[0], 1.0), max(tokens_N[-1], 1.0), MOST_POINTS)
    kept = np.unique(np.clip(np.searchsorted(tokens_N, wanted), 0, len(tokens_N) - 1))
    curves = {panel: [_rounded(columns[name][n]) for n in kept] for panel, name in _COLUMNS.items() if name in columns}
    return {
        "uid": one.trial.uid,
        "architecture": one.entry.name,
        "place": one.place,
        "tokens": [_rounded(tokens_N[n]) for n in kept],
        **{panel: curves.get(panel) for panel in PANELS},
    }


def _rounded(value: float) -> float:
    """Few digits: no pixel is finer."""
    return float(f"{value:.4g}")


def _trace(data: ReportData, row: Mapping[str, Any], panel: str, place: int) -> dict[str, Any]:
    entry = data.architecture(row["architecture"])
    name = escape(entry.name)
    factor = 100.0 if panel == "dead" else 1.0
    return {
        "type": "scatter",
        "mode": "lines+markers",  # marks tell architectures apart that share a colour
        "name": name,
        "legendgroup": name,
        "showlegend": place == 0 and row["place"] == MIDDLE,
        "x": row["tokens"],
        "y": [_rounded(factor * value) for value in row[panel]],
        "xaxis": f"x{_number(place)}",
        "yaxis": f"y{_number(place)}",
        "line": {"color": entry.colour, "width": 1.8, "dash": _DASHES[row["place"]]},
        "marker": {"symbol": entry.symbol, "size": 7, "color": entry.colour, "maxdisplayed": _MOST_MARKS},
        "hovertemplate": f"{escape(row['uid'])}<br>{PANELS[panel]} %{{y:.3g}} at %{{x:.3g}} rows<extra></extra>",
    }


def _layout(trials: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> dict[str, Any]:
    """Panels from top to bottom with one scale of rows; what is positive everywhere gets a logarithmic axis."""
    size = (1 + _GAP) / len(shown)
    axes: dict[str, Any] = {}
    rows = _ticks([value for row in trials for value in row["tokens"]])
    for place, panel in enumerate(shown):
        top = 1 - place * size
        values = [value for row in trials for value in row[panel] or ()]
        log = panel != "dead" and min(values) > 0
        scale = {"type": "log", **_ticks(values)} if log else {"type": "linear", "rangemode": "tozero", "nticks": 5}
        axes[f"yaxis{_number(place)}"] = {
            **{"title": {"text": PANELS[panel]}, "domain": [max(top - size + _GAP, 0.0), min(top, 1.0)]},
            **scale,
        }
        axes[f"xaxis{_number(place)}"] = {
            **{"type": "log", "anchor": f"y{_number(place)}", **rows},
            **({"matches": "x"} if place else {}),
            **({"title": {"text": "training rows seen"}} if panel == shown[-1] else _without_labels(rows)),
        }
    return {
        **axes,
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"l": 72, "r": 16, "t": 64, "b": 56},
    }


def _number(place: int) -> str:
    """What Plotly adds to the names of the axes of a panel: nothing for the first one."""
    return str(place + 1) if place else ""


def _without_labels(ticks: Mapping[str, Any]) -> dict[str, Any]:
    """Ticks that draw their lines only."""
    return {"ticktext": [""] * len(ticks["tickvals"])} if "tickvals" in ticks else {"showticklabels": False}


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """Few ticks of a logarithmic axis: powers of ten, with 2 and 5 between them while they are few."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [(step, power) for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(ticks) > MOST_TICKS:
        whole = [tick for tick in ticks if tick[0] == 1]
        ticks = whole[:: -(-len(whole) // MOST_TICKS)]
    vals, texts = [step * 10.0**power for step, power in ticks], [_tick(*tick) for tick in ticks]
    return {"tickmode": "array", "tickvals": vals, "ticktext": texts} if ticks else {"nticks": MOST_TICKS}


def _tick(step: int, power: int) -> str:
    if -3 <= power <= 3:
        return f"{step * 10.0**power:g}"
    return power_of_ten(power) if step == 1 else f"{step}\u00b7{power_of_ten(power)}"


def _in_words(row: Mapping[str, Any]) -> str:
    dead = f"{percent(row['dead'][0])} to {percent(row['dead'][-1])}"
    text = f"{row['uid']}: loss {_ends(row['loss'])}, L0 {_ends(row['l0'])}, dead latents {dead}"
    return f"{text}, KL {_ends(row['kl'])}." if row["kl"] else f"{text}."


def _ends(values: Sequence[float]) -> str:
    return f"{number(values[0])} to {number(values[-1])}"


def _caption(data: ReportData, found: Mapping[str, Any]) -> str:
    lines = {row["place"] for row in found["trials"]}
    words = {LOW: "dotted, lowest L0", MIDDLE: "solid, middle", HIGH: "dashed, highest L0"}
    text = which(data)
    if len(lines) > 1:
        text += f" Lines: {'; '.join(words[place] for place in (LOW, MIDDLE, HIGH) if place in lines)}."
    text += (
        " Loss: what is minimised, penalties included, so it compares an architecture with itself only. L0: latents "
        "that fire on the training batch, before thresholds are calibrated for evaluation. Dead: silent for the dead "
        "window."
    )
    if any(row["kl"] for row in found["trials"]):
        text += " KL: as it stands in the loss of the variational architectures, weighted and warmed up."
    if found["without"]:
        text += f" No curve, because not trained by gradient or not recorded: {listed(found['without'])}."
    return text


def _table(data: ReportData, trials: Sequence[Mapping[str, Any]]) -> Part:
    columns = [
        Column("trial"),
        Column("frontier"),
        Column("rows seen", numeric=True),
        Column("loss", numeric=True, hint="Of the first and of the last point"),
        Column("L0", numeric=True),
        Column("dead", numeric=True, hint="At the end of training"),
        Column("most dead", numeric=True, hint="At any time of training"),
        Column("KL", numeric=True),
    ]
    rows = []
    for row in trials:
        entry, trial = data.architecture(row["architecture"]), data.trial(row["uid"])
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + link(trial.run_url, trial.uid), sort=trial.uid),
                row["place"],
                Cell(number(row["tokens"][-1]), sort=row["tokens"][-1]),
                Cell(_ends(row["loss"]), sort=row["loss"][-1]),
                Cell(_ends(row["l0"]), sort=row["l0"][-1]),
                Cell(percent(row["dead"][-1]), sort=row["dead"][-1]),
                Cell(percent(max(row["dead"])), sort=max(row["dead"])),
                Cell(_ends(row["kl"]), sort=row["kl"][-1]) if row["kl"] else DASH,
            ]
        )
    return table(columns, rows, caption="Where the same curves begin and end", sortable=True)


CARD = CurvesCard()
