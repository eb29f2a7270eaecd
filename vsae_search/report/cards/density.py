"""How often latents fire: a histogram of log10 density for some frontier trials, as measured on the evaluation rows."""

from __future__ import annotations

import logging
import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vsae_search.report.card import Figure
from vsae_search.report.chart import GREY
from vsae_search.report.examples import examples, which
from vsae_search.report.markup import Cell, Column, link, swatch, table
from vsae_search.report.text import number, percent, power_of_ten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.examples import Example
    from vsae_search.report.source import Source

ARRAYS_FILE = "arrays.safetensors"
DENSE = 0.1
"""Density above which a latent counts as dense."""
# Nothing at all for 0, so that the page shows through, light or dark; small shares stay visible.
COLOURS = ((0.0, "rgba(0,114,178,0)"), (0.1, "rgba(0,114,178,0.35)"), (1.0, "rgba(0,114,178,1)"))
_SHORTEST = 28

logger = logging.getLogger(__name__)


class DensityCard:
    """One row of a heat map per trial."""

    name = "density"
    title = "How often latents fire"
    order = 56

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Histograms with the edges of their bins; trials whose evaluation kept none are named."""
        found = {one.trial.uid: _measured(source.folder(one.trial.uid) / ARRAYS_FILE) for one in examples(data)}
        trials = [_row(one, kept[0], kept[2]) for one in examples(data) if (kept := found[one.trial.uid]) is not None]
        edges: list[float] = next((kept[1].tolist() for kept in found.values() if kept is not None), [])
        same = [row for row in trials if len(row["histogram"]) == len(edges) - 1]
        return {
            "edges": edges,
            "num_rows": _count(data.sweep.bank.get("evaluation_rows")),
            "trials": same,
            "without": [uid for uid in found if uid not in {row["uid"] for row in same}],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No frontier trial, or none that kept its densities."""
        found = data.cards["density"]
        if found["trials"]:
            return None
        if found["without"]:
            return "No frontier trial kept the densities of its latents (arrays.safetensors)."
        return "No architecture has a frontier trial."

    def render(self, data: ReportData) -> Sequence[Part]:
        """A heat map and a table."""
        found = data.cards["density"]
        return (
            Figure(
                spec={"data": [_trace(found)], "layout": _layout(found)},
                alt="Share of latents by how often they fire. " + " ".join(map(_in_words, found["trials"])),
                caption=f"{which(data)} {_caption(found)}",
                height_px=max(320, 190 + 24 * len(found["trials"])),
            ),
            _table(data, found["trials"]),
        )


def _measured(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Histogram, its edges, and the density of every latent; None when they were not kept or cannot be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            keys = ("density_histogram", "density_histogram_edges", "density")
            histogram_N, edges_N, density_F = (np.asarray(file.get_tensor(key)) for key in keys)
    except (OSError, SafetensorError):
        logger.warning("report.density_unreadable path=%s", path)
        return None
    shapes = (histogram_N.ndim, edges_N.ndim, density_F.ndim)
    usable = shapes == (1, 1, 1) and len(edges_N) == len(histogram_N) + 1 and histogram_N.sum() <= len(density_F)
    return (histogram_N, edges_N, density_F) if usable and len(density_F) else None


def _row(one: Example, histogram_N: NDArray[Any], density_F: NDArray[np.float64]) -> dict[str, Any]:
    firing = density_F[density_F > 0]
    return {
        "uid": one.trial.uid,
        "architecture": one.entry.name,
        "place": one.place,
        "l0": one.trial.l0,
        "num_latents": len(density_F),
        "histogram": histogram_N.astype(int).tolist(),
        "dead_fraction": float(np.mean(density_F == 0)),
        "dense_fraction": float(np.mean(density_F > DENSE)),
        "median_density": float(np.median(firing)) if len(firing) else None,
    }


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _first_bin(found: Mapping[str, Any]) -> int:
    """The first bin in which a latent of some trial is."""
    filled = [n for row in found["trials"] for n, count in enumerate(row["histogram"]) if count]
    return min(filled, default=len(found["edges"]) - 2)


def _label(row: Mapping[str, Any]) -> str:
    """Name of a row of the heat map; the uid keeps it apart from all others."""
    uid = row["uid"] if len(row["uid"]) <= _SHORTEST else f"\u2026{row['uid'][1 - _SHORTEST :]}"
    return escape(f"{uid}, L0 {number(row['l0'])}")


def _trace(found: Mapping[str, Any]) -> dict[str, Any]:
    """Dead latents in a column of their own, a gap, then the bins."""
    first, edges = _first_bin(found), found["edges"]
    bins = [f"10^{low:g} to 10^{high:g}" for low, high in zip(edges[first:], edges[first + 1 :], strict=False)]
    shares = [
        [
            _percent(row["dead_fraction"]),
            None,
            *(_percent(count / row["num_latents"]) for count in row["histogram"][first:]),
        ]
        for row in found["trials"]
    ]
    return {
        "type": "heatmap",
        "x": ["never", "", *bins],
        "y": [_label(row) for row in found["trials"]],
        "z": shares,
        "zmin": 0,
        "zmax": max(value or 0.0 for row in shares for value in row) or 1.0,
        "colorscale": [list(stop) for stop in COLOURS],
        "colorbar": {
            **{"title": {"text": "% of latents", "font": {"size": 12}}, "thickness": 10},
            **{"orientation": "h", "x": 1, "xanchor": "right", "lenmode": "pixels", "len": 220, "nticks": 6},
            **{"yref": "container", "y": 0, "yanchor": "bottom", "outlinewidth": 0},
        },
        "xgap": 1,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>fires on a share of rows of %{x}: %{z:.3g} % of latents<extra></extra>",
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _layout(found: Mapping[str, Any]) -> dict[str, Any]:
    decades = [edge for edge in found["edges"][_first_bin(found) :] if float(edge).is_integer()]
    ticks = {0.0: "never"} | {_position(found, edge): power_of_ten(round(edge)) for edge in decades}
    line = {"color": GREY, "width": 1, "dash": "dash"}
    dense = _position(found, math.log10(DENSE))
    return {
        "xaxis": {
            **{"type": "category", "showgrid": False, "tickmode": "array", "title": {"text": "share of rows"}},
            **{"tickvals": list(ticks), "ticktext": list(ticks.values()), "tickangle": 0, "tickfont": {"size": 11}},
        },
        "yaxis": {
            **{"type": "category", "showgrid": False, "autorange": "reversed", "automargin": True},
            **{"tickfont": {"size": 11}},
        },
        "shapes": [{"type": "line", "yref": "paper", "x0": dense, "x1": dense, "y0": 0, "y1": 1, "line": line}],
        "annotations": [
            {"x": dense, "xref": "x", "y": 1, "yref": "paper", "text": "dense", "showarrow": False}
            | {"xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
        ],
        "margin": {"l": 16 + 6 * max(len(_label(row)) for row in found["trials"]), "r": 16, "t": 48, "b": 120},
    }


def _position(found: Mapping[str, Any], log_density: float) -> float:
    """Where an edge of the bins lies on the axis of categories, whose cells are one wide."""
    return 1.5 + float(np.searchsorted(found["edges"], log_density - 1e-9)) - _first_bin(found)


def _in_words(row: Mapping[str, Any]) -> str:
    return (
        f"{row['uid']}: {percent(row['dead_fraction'])} dead, {percent(row['dense_fraction'])} dense, half of the "
        f"others fire on more than {percent(row['median_density'])} of the rows."
    )


def _caption(found: Mapping[str, Any]) -> str:
    text = (
        "Each row of the figure is the histogram of one trial: a cell is darker the more of its latents fire that "
        "often, in bins of a quarter of a decade. Never: dead on these rows. Right of the dashed line: dense, on more "
        f"than {percent(DENSE)} of the rows."
    )
    if found["num_rows"]:
        text += f" With {found['num_rows']} evaluation rows nothing below {number(1 / found['num_rows'])} can be seen."
    if found["without"]:
        text += f" Not kept for {', '.join(found['without'])}."
    return text


def _table(data: ReportData, trials: Sequence[Mapping[str, Any]]) -> Part:
    columns = [
        Column("trial"),
        Column("frontier"),
        Column("L0", numeric=True),
        Column("latents", numeric=True),
        Column("dead", numeric=True, hint="Share that never fires on the evaluation rows"),
        Column("dense", numeric=True, hint="Share that fires on more than a tenth of the rows"),
        Column("median density", numeric=True, hint="Share of rows on which the median firing latent fires"),
    ]
    rows = []
    for row in trials:
        entry, trial = data.architecture(row["architecture"]), data.trial(row["uid"])
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + link(trial.run_url, trial.uid), sort=trial.uid),
                row["place"],
                Cell(number(row["l0"], 4), sort=row["l0"]),
                str(row["num_latents"]),
                Cell(percent(row["dead_fraction"]), sort=row["dead_fraction"]),
                Cell(percent(row["dense_fraction"]), sort=row["dense_fraction"]),
                Cell(percent(row["median_density"]), sort=row["median_density"]),
            ]
        )
    return table(columns, rows, caption="Dead, dense and median latents of the same trials", sortable=True)


CARD = DensityCard()
