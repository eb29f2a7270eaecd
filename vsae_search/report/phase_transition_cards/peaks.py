"""Whether the loss has a peak at some sparsity: of every single run, and of all of them together."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.report.card import Figure
from vsae_search.report.markup import Cell, Column, paragraph, swatch, table
from vsae_search.report.panels import join_panels, panel, panel_names
from vsae_search.report.quantiles import quartiles
from vsae_search.report.text import number
from vsae_search.report.toy_models import experiment_of, nothing_trained
from vsae_search.report.transition import curves, peaks
from vsae_search.space import PhaseTransitionExperiment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

METRIC = "last_row_loss"


class PeaksCard:
    """One line per seed, the median, and where the lines have peaks."""

    name = "peaks"
    title = "Is there a peak in the loss?"
    order = 30

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Training loss of the last pass by seed and sparsity, its peaks, and how far the seeds are apart."""
        experiment = experiment_of(source).experiment
        if not isinstance(experiment, PhaseTransitionExperiment):
            return {}
        x = list(experiment.sparsity)
        return {
            "sparsity": x,
            "recipes": {arm: _recipe(x, curves(data.trials, arm, x, METRIC)) for arm in experiment.recipes},
        }

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained."""
        return nothing_trained(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure and a table."""
        found = data.cards["peaks"]
        traces: list[dict[str, Any]] = []
        panels: list[dict[str, Any]] = []
        for index, (name, recipe) in enumerate(found["recipes"].items()):
            traces += _traces(data, found["sparsity"], name, recipe, index)
            title = {"title": {"text": "training loss of the last pass"}} if index == 0 else {}
            x, y = {"title": {"text": "sparsity"}, "range": [0, 1.02]}, {"rangemode": "tozero", **title}
            panels.append(panel(index, len(found["recipes"]), len(found["recipes"]), heading=name, x=x, y=y))
        layout = join_panels(panels, showlegend=False, margin={"l": 64, "r": 24, "t": 36, "b": 52})
        rows = [_cells(data, name, recipe) for name, recipe in found["recipes"].items()]
        return (
            Figure(spec={"data": traces, "layout": layout}, alt=_ALT, caption=_CAPTION, height_px=420),
            table(_COLUMNS, rows, caption="Peaks of the loss over sparsity"),
            paragraph(
                "A peak is a sparsity inside the range whose loss is above that of both neighbours. A peak of a single "
                "run says nothing when other seeds have theirs elsewhere.",
                "note",
            ),
        )


def _recipe(x: Sequence[float], values_RP: Any) -> dict[str, Any]:
    median = quartiles(values_RP)["median"]
    complete = [values for values in values_RP.tolist() if np.isfinite(values).all()]
    found = [peaks(x, values) for values in complete]
    ratios = [
        float(np.nanmax(one) / np.nanmin(one)) for one in values_RP.T if np.isfinite(one).any() and np.nanmin(one) > 0
    ]
    whole = [value for value in median if value is not None]
    return {
        "seeds": [[None if np.isnan(value) else value for value in values] for values in values_RP.tolist()],
        "median": median,
        "complete": len(complete),
        "with_peak": sum(bool(one) for one in found),
        "where": dict(
            sorted(Counter(f"{place:g}" for one in found for place in one).items(), key=lambda p: float(p[0]))
        ),
        "median_peaks": peaks(x, whole) if len(whole) == len(x) else [],
        "largest_ratio": max(ratios, default=None),
    }


def _traces(
    data: ReportData, x: Sequence[float], name: str, recipe: Mapping[str, Any], index: int
) -> list[dict[str, Any]]:
    colour, place = data.architecture(name).colour, dict(zip(("xaxis", "yaxis"), panel_names(index), strict=True))
    thin = {"type": "scatter", "mode": "lines", "line": {"color": colour, "width": 1}, "opacity": 0.45, **place}
    hover = "seed %{text}, sparsity %{x}: %{y:.4g}<extra></extra>"
    seeds = [
        {**thin, "x": list(x), "y": values, "text": [str(seed)] * len(x), "hovertemplate": hover}
        for seed, values in enumerate(recipe["seeds"])
    ]
    bold = {"mode": "lines+markers", "line": {"color": colour, "width": 3}, "marker": {"size": 6, "color": colour}}
    text = f"{escape(name)}: median at sparsity %{{x}}: %{{y:.4g}}<extra></extra>"
    return [*seeds, {"type": "scatter", "x": list(x), "y": recipe["median"], "hovertemplate": text, **bold, **place}]


_COLUMNS = [
    Column("recipe"),
    Column("seeds", numeric=True),
    Column("with a peak", numeric=True, hint="Seeds whose own curve has a peak"),
    Column("where", hint="Sparsity, and how many seeds have a peak there"),
    Column("median", hint="Where the median of the seeds has peaks"),
    Column("largest ratio", numeric=True, hint="Of two seeds: highest over lowest loss at one sparsity"),
]
_ALT = "Training loss of the last pass against sparsity: a thin line for every seed, a bold one for the median."
_CAPTION = (
    "Thin: single seeds. Bold: their median. Mean training loss of the last pass over the rows (where rows are fresh: "
    "of the last tenth of the steps), summed over the features."
)


def _cells(data: ReportData, name: str, recipe: Mapping[str, Any]) -> list[Any]:
    arm = data.architecture(name)
    where = ", ".join(f"{place}: {count}" for place, count in recipe["where"].items())
    return [
        Cell(swatch(arm.colour, arm.symbol) + name, sort=name),
        str(recipe["complete"]),
        str(recipe["with_peak"]),
        where or "none",
        ", ".join(f"{place:g}" for place in recipe["median_peaks"]) or "none",
        number(recipe["largest_ratio"]),
    ]


CARD = PeaksCard()
