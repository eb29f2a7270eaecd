"""The sparsity at which superposition sets in, for every recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.markup import Cell, Column, bullets, paragraph, swatch, table
from vsae_search.report.text import number
from vsae_search.report.toy_models import experiment_of, nothing_trained
from vsae_search.report.transition import curves, transition_summary
from vsae_search.space import PhaseTransitionExperiment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source


class TransitionCard:
    """A sentence and a row for every recipe."""

    name = "transition"
    title = "Transition"
    order = 10

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Where ||W||_F^2 / d crosses the threshold: quartiles over the seeds."""
        experiment = experiment_of(source).experiment
        if not isinstance(experiment, PhaseTransitionExperiment):
            return {}
        x = list(experiment.sparsity)
        found = {
            arm: transition_summary(x, curves(data.trials, arm, x, "features_per_dimension"), experiment.threshold)
            for arm in experiment.recipes
        }
        return {"threshold": experiment.threshold, "sparsity": x, "recipes": found}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained."""
        return nothing_trained(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """Sentences, then a table."""
        found = data.cards["transition"]
        columns = [
            Column("recipe"),
            Column("seeds", numeric=True),
            Column("cross", numeric=True, hint="Seeds that end above the threshold"),
            Column("lower quartile", numeric=True),
            Column("median", numeric=True, hint="Sparsity at which the threshold is crossed"),
            Column("upper quartile", numeric=True),
        ]
        rows = [_cells(data, name, one) for name, one in found["recipes"].items()]
        return (
            bullets([_sentence(name, one, found["sparsity"]) for name, one in found["recipes"].items()]),
            table(columns, rows, caption=f"Sparsity at which \u2016W\u2016\u00b2 / d crosses {found['threshold']:g}"),
            paragraph(
                "\u2016W\u2016\u00b2 / d is about the number of features per hidden dimension: 1 without "
                "superposition. The crossing is the last one on the way up, interpolated, seed by seed.",
                "note",
            ),
        )


def _sentence(name: str, one: Mapping[str, Any], sparsity: Sequence[float]) -> str:
    if one["median"] is None:
        return f"{name}: no seed reaches superposition at these sparsities."
    below = max((place for place in sparsity if place <= one["median"]), default=sparsity[0])
    above = min((place for place in sparsity if place >= one["median"]), default=sparsity[-1])
    measured = f"{below:g}" if below == above else f"{below:g} and {above:g}"
    text = f"{name}: superposition sets in at a sparsity of {number(one['median'])} (median of {one['crossed']} seeds; "
    text += f"measured at {measured})."
    if one["from_start"]:
        text += (
            f" {one['from_start']} of them are above the threshold at every sparsity; the first one stands for these."
        )
    return text


def _cells(data: ReportData, name: str, one: Mapping[str, Any]) -> list[Any]:
    arm = data.architecture(name)
    return [
        Cell(swatch(arm.colour, arm.symbol) + name, sort=name),
        str(one["seeds"]),
        str(one["crossed"]),
        *(number(one[key]) for key in ("low", "median", "high")),
    ]


CARD = TransitionCard()
