"""Five measures of a toy model against the sparsity of its features, for every recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.card import Figure
from vsae_search.report.chart import GREY
from vsae_search.report.markup import Column, details, table
from vsae_search.report.panels import join_panels, panel, panel_names
from vsae_search.report.quantiles import band_traces, quartiles
from vsae_search.report.text import number
from vsae_search.report.toy_models import experiment_of, nothing_trained
from vsae_search.report.transition import curves
from vsae_search.space import PhaseTransitionExperiment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

METRICS = {
    "row_loss": "loss, summed over the features",
    "toy_fvu": "FVU",
    "features_represented": "features represented",
    "features_per_dimension": "\u2016W\u2016\u00b2 / d",
    "mean_dimensionality": "mean dimensionality",
}
_COLUMNS = 3


class PhaseCard:
    """A panel for every measure."""

    name = "phase"
    title = "From dense to sparse"
    order = 20

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Quartiles over the seeds of every measure, at every sparsity and with every recipe."""
        experiment = experiment_of(source).experiment
        if not isinstance(experiment, PhaseTransitionExperiment):
            return {}
        x = list(experiment.sparsity)
        found = {
            arm: {metric: quartiles(curves(data.trials, arm, x, metric)) for metric in METRICS}
            for arm in experiment.recipes
        }
        return {"sparsity": x, "threshold": experiment.threshold, "seeds": experiment.seeds, "recipes": found}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained."""
        return nothing_trained(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """One figure, and its numbers in a table to open."""
        found = data.cards["phase"]
        traces: list[dict[str, Any]] = []
        panels: list[dict[str, Any]] = []
        for index, (metric, title) in enumerate(METRICS.items()):
            x_name, y_name = panel_names(index)
            for name, recipe in found["recipes"].items():
                place = {"xaxis": x_name, "yaxis": y_name, "legendgroup": name}
                colour = data.architecture(name).colour
                band, line = band_traces(found["sparsity"], recipe[metric], name=name, colour=colour, **place)
                traces += [band, {**line, "showlegend": index == 0}]
            x, y = {"title": {"text": "sparsity"}, "range": [0, 1.02]}, {"rangemode": "tozero"}
            panels.append(panel(index, len(METRICS), _COLUMNS, heading=title, x=x, y=y, gap=(0.07, 0.22)))
        legend = {"orientation": "h", "x": 0, "y": 1.06, "xanchor": "left", "yanchor": "bottom"}
        layout = join_panels(
            panels, legend=legend, shapes=[_line(found["threshold"])], margin={"l": 48, "r": 24, "t": 84, "b": 52}
        )
        return (
            Figure(spec={"data": traces, "layout": layout}, alt=_alt(found), caption=_CAPTION, height_px=640),
            details("Medians as a table", table(_HEADS, _rows(found), caption="Medians over the seeds")),
        )


_CAPTION = (
    "Lines: median over the seeds; bands: between the quartiles. The loss is the weighted squared error of a row on "
    "100 000 fresh rows; FVU is its share of the weighted variance of the inputs, which does not fall by itself when "
    "features get rarer. Dashed: the threshold of the transition. Features with \u2016W\u1d62\u2016\u00b2 above 1/2 "
    "count as represented, and the mean dimensionality is theirs."
)
_HEADS = [Column("recipe"), Column("sparsity", numeric=True), *(Column(t, numeric=True) for t in METRICS.values())]


def _line(threshold: float) -> dict[str, Any]:
    x_name, y_name = panel_names(list(METRICS).index("features_per_dimension"))
    place = {"xref": f"{x_name} domain", "x0": 0, "x1": 1, "yref": y_name, "y0": threshold, "y1": threshold}
    return {"type": "line", **place, "line": {"color": GREY, "width": 1, "dash": "dash"}}


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, f"{sparsity:g}", *(number(recipe[metric]["median"][index]) for metric in METRICS)]
        for name, recipe in found["recipes"].items()
        for index, sparsity in enumerate(found["sparsity"])
    ]


def _alt(found: Mapping[str, Any]) -> str:
    x = found["sparsity"]
    ends = [
        f"{name}: from {number(recipe['features_per_dimension']['median'][0])} at sparsity {x[0]:g} to "
        f"{number(recipe['features_per_dimension']['median'][-1])} at {x[-1]:g}"
        for name, recipe in found["recipes"].items()
    ]
    return f"Loss, FVU and three measures of superposition against sparsity. Features per dimension, {'; '.join(ends)}."


CARD = PhaseCard()
