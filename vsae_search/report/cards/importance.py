"""Which hyper-parameters move the frontier, and which ones L0 and delta_ce, per architecture."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import nondominated
from vsae_search.report.build import is_eligible
from vsae_search.report.card import Control, Figure
from vsae_search.report.importance import PART, PARTS, QUANTILE, SEED, SHUFFLES, Values, cells_of, importances
from vsae_search.report.markup import Cell, Column, paragraph, swatch, table
from vsae_search.report.searched import searched_axes
from vsae_search.report.text import DASH, counted, listed, percent
from vsae_search.search.objectives import DELTA_CE_FLOOR_FRACTION, L0_FLOOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.report.card import Part
    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow
    from vsae_search.report.importance import Importance
    from vsae_search.report.source import Source

FEWEST = 20
"""Completed trials below which the best quarter is too small to say anything."""
MOST = 400
"""Trials of one architecture that are looked at; of more, a random choice of this size."""
TARGETS = {"frontier": "close to the frontier", "l0": "low L0", "delta_ce": "low delta-CE"}
# So faint that ink is readable on the strongest, on a light page and on a dark one.
_COLOURS = ((0.0, "rgba(0,114,178,0.05)"), (1.0, "rgba(0,114,178,0.6)"))
_LONGEST = 24


class ImportanceCard:
    """A heat map of architectures and hyper-parameters for each of three scores."""

    name = "importance"
    title = "Which hyper-parameters matter"
    order = 50

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Shares with their ranges, and the architectures that are left out with the reason."""
        found, left_out = [], []
        for entry in data.architectures:
            rows = [row for row in data.trials if row.architecture == entry.name and is_eligible(row)]
            reason = _why_not(entry, rows)
            if reason is None:
                found.append(_architecture(data, entry, rows))
            else:
                left_out.append({"architecture": entry.name, "reason": reason})
        return {"architectures": found, "left_out": left_out}

    def unavailable(self, data: ReportData) -> str | None:
        """No architecture has enough trials and something that is searched."""
        if data.cards["importance"]["architectures"]:
            return None
        return f"Importance needs {FEWEST} completed trials of an architecture that searches something."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One heat map whose buttons choose the score, and a table of all three."""
        found = data.cards["importance"]
        names = _names(found["architectures"])
        traces = [
            {**trace, "visible": key == "frontier"}
            for key in TARGETS
            for trace in _traces(found["architectures"], names, key)
        ]
        controls = [
            Control(text, {}, pressed=key == "frontier", visible=[other == key for other in TARGETS for _ in range(2)])
            for key, text in TARGETS.items()
        ]
        figure = Figure(
            spec={"data": traces, "layout": _layout(found["architectures"], names)},
            alt="Importance of hyper-parameters. " + " ".join(map(_in_words, found["architectures"])),
            caption=_CAPTION,
            controls=[controls],
            height_px=max(320, 130 + 30 * len(found["architectures"])),
        )
        notes = [_left_out(found["left_out"])] if found["left_out"] else []
        return figure, _table(data, found["architectures"]), *notes


_CAPTION = (
    f"PED-ANOVA: how differently a hyper-parameter is spread among the best {percent(QUANTILE)} of an architecture's "
    "completed trials and among all of them, as a share of the sum over its hyper-parameters. Close to the frontier: "
    "best by the distance behind the architecture's own frontier, in halvings of L0 and of delta-CE together. An "
    f"asterisk marks what is larger than with each of {SHUFFLES} shuffled scores (chance: 1 in {SHUFFLES + 1} per "
    "cell); shares without one may be chance."
)


def octaves_behind(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much both coordinates of a point would have to fall until no other point dominates it.

    Args:
        points_N2: (log2 L0, log2 delta_ce) [N, 2], finite.

    Returns:
        The additive epsilon of each point alone against the frontier [N], 0 on it.
    """
    front_M2 = points_N2[nondominated(points_N2)]
    behind_NM = (points_N2[:, None, :] - front_M2[None, :, :]).min(axis=2)
    return np.asarray(np.maximum(behind_NM.max(axis=1), 0.0))


def _why_not(entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> str | None:
    if len(rows) < FEWEST:
        return f"{counted(len(rows), 'completed trial')}, fewer than {FEWEST}"
    return None if searched_axes(entry, rows) else "no hyper-parameter differs between its trials"


def _architecture(data: ReportData, entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> dict[str, Any]:
    if len(rows) > MOST:
        kept = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:MOST])
        rows = [rows[index] for index in kept]
    axes = searched_axes(entry, rows)
    values = [
        Values(cells_of([axis.place(row.params[axis.name]) for row in rows], axis.cells), axis.cells, axis.ordered)
        for axis in axes
    ]
    return {
        "architecture": entry.name,
        "num_trials": len(rows),
        "parameters": [axis.name for axis in axes],
        "targets": {
            key: _target(found) for key, found in zip(TARGETS, importances(values, _scores(data, rows)), strict=True)
        },
    }


def _scores(data: ReportData, rows: Sequence[TrialRow]) -> NDArray[np.float64]:
    """Scores in the order of `TARGETS` [3, N]; differences below the floors of the search's objectives are noise."""
    largest = data.axes.reference.delta_ce if data.axes.reference else max(row.delta_ce or 0.0 for row in rows)
    floor = DELTA_CE_FLOOR_FRACTION * largest if largest > 0 else 1.0
    points_N2 = np.array(
        [(math.log2(max(row.l0 or 0.0, L0_FLOOR)), math.log2(max(row.delta_ce or 0.0, floor))) for row in rows]
    )
    return np.stack([octaves_behind(points_N2), points_N2[:, 0], points_N2[:, 1]])


def _target(found: Importance) -> dict[str, list[Any]]:
    return {
        "share": found.share_P.round(4).tolist(),
        "low": found.low_P.round(4).tolist(),
        "high": found.high_P.round(4).tolist(),
        "beats_chance": found.beats_chance_P.tolist(),
    }


def _names(architectures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Hyper-parameters by the number of architectures that search them."""
    names = [name for one in architectures for name in one["parameters"]]
    return sorted(set(names), key=lambda name: (-names.count(name), name))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"


def _traces(architectures: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> list[dict[str, Any]]:
    """Cells of one score, and the numbers in them, which take the colour of the page's text."""
    labels, y = _labels(names), [escape(one["architecture"]) for one in architectures]
    found = [dict(zip(one["parameters"], _cells(one["targets"][key]), strict=True)) for one in architectures]
    shares = [[round(100 * cells[name][0], 1) if name in cells else None for name in names] for cells in found]
    texts = [
        (label, row, _text(cells[name]))
        for row, cells in zip(y, found, strict=True)
        for label, name in zip(labels, names, strict=True)
        if name in cells
    ]
    heat = {
        **{"type": "heatmap", "x": labels, "y": y, "z": shares, "zmin": 0, "zmax": 100},
        **{"colorscale": [list(stop) for stop in _COLOURS], "showscale": False, "xgap": 2, "ygap": 2},
        "hoverongaps": False,
        "hovertemplate": f"%{{y}}<br>%{{x}}: %{{z}} % for {TARGETS[key]}<extra></extra>",
    }
    x, y, text = (list(column) for column in zip(*texts, strict=True))
    words = {"type": "scatter", "mode": "text", "x": x, "y": y, "text": text, "textposition": "middle center"}
    return [heat, {**words, "hoverinfo": "skip", "showlegend": False}]


def _labels(names: Sequence[str]) -> list[str]:
    """Categories of the x axis, numbered so that no two shortened names are the same."""
    return [escape(f"{index + 1} {_short(name)}") for index, name in enumerate(names)]


def _cells(target: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(target["share"], target["low"], target["high"], target["beats_chance"], strict=True))


def _text(cell: Sequence[Any]) -> str:
    return f"{100 * cell[0]:.0f}{'*' if cell[3] else ''}"


def _layout(architectures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    ticks = {"tickmode": "array", "tickvals": _labels(names), "ticktext": [escape(_short(name)) for name in names]}
    return {
        "xaxis": {"type": "category", "showgrid": False, "automargin": True, **ticks},
        "yaxis": {"type": "category", "showgrid": False, "autorange": "reversed", "automargin": True},
        "margin": {"l": 16 + 8 * max(len(one["architecture"]) for one in architectures), "r": 12, "t": 32, "b": 40},
    }


def _in_words(one: Mapping[str, Any]) -> str:
    """What decides, for one architecture."""
    pieces = []
    for key, text in TARGETS.items():
        cells = zip(one["parameters"], _cells(one["targets"][key]), strict=True)
        sure = sorted((-cell[0], name) for name, cell in cells if cell[3])
        names = listed([f"{name} ({percent(-share)})" for share, name in sure]) or "nothing beyond chance"
        pieces.append(f"{text}: {names}")
    return f"{one['architecture']}, {one['num_trials']} trials: {'; '.join(pieces)}."


def _table(data: ReportData, architectures: Sequence[Mapping[str, Any]]) -> Part:
    hint = f"Share, and its 10 to 90 % range over {PARTS} random parts with {percent(PART)} of the trials"
    columns = [
        Column("architecture"),
        Column("hyper-parameter"),
        *(Column(text, numeric=True, hint=hint) for text in TARGETS.values()),
        Column("trials", numeric=True),
    ]
    rows: list[list[Any]] = []
    for one in architectures:
        entry = data.architecture(one["architecture"])
        cells = [_cells(one["targets"][key]) for key in TARGETS]
        for index, name in enumerate(one["parameters"]):
            shown = [_cell(column[index]) for column in cells]
            mark = Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name)
            rows.append([mark, name, *shown, str(one["num_trials"])])
    caption = f"Importance with its 10 to 90 % range over {PARTS} random parts of the trials (seed {SEED})"
    return table(columns, rows, caption=caption, sortable=True)


def _cell(cell: Sequence[Any]) -> Cell:
    share, low, high, sure = cell
    text = f"{percent(share, 0)}{'*' if sure else ''} ({100 * low:.0f}{DASH}{100 * high:.0f})"
    return Cell(text, sort=share)


def _left_out(entries: Sequence[Mapping[str, Any]]) -> Markup:
    reasons: dict[str, list[str]] = {}
    for one in entries:
        reasons.setdefault(one["reason"], []).append(one["architecture"])
    return paragraph(f"Left out: {'; '.join(f'{listed(names)} ({why})' for why, names in reasons.items())}.", "note")


CARD = ImportanceCard()
