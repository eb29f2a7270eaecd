"""The frontier trials as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from vsae_search.report.markup import Cell, Column, link, paragraph, swatch, table
from vsae_search.report.metrics import headline
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow
    from vsae_search.report.metrics import Metric

MOST_ROWS = 150
"""Frontier trials up to which all are shown; of more, those that no architecture dominates."""


class TrialsCard:
    """Every frontier trial with its metrics and hyper-parameters."""

    name = "trials"
    title = "Frontier trials"
    order = 800

    def unavailable(self, data: ReportData) -> str | None:
        """No frontier."""
        return None if any(entry.frontier for entry in data.architectures) else "No architecture has a frontier trial."

    def render(self, data: ReportData) -> Sequence[Part]:
        """One sortable table."""
        metrics = headline(data)
        every = [(entry, trial) for entry in data.architectures for trial in data.frontier(entry.name)]
        few = len(every) <= MOST_ROWS
        rows = [_row(entry, trial, metrics) for entry, trial in every if few or trial.on_pooled_frontier]
        pooled = Markup(
            "A dot in the column <em>pooled</em> marks trials that no trial of any architecture dominates. All "
            "frontier trials are in <code>tables/frontier.csv</code>; every trial is in <code>tables/trials.csv</code>."
        )
        caption = "Frontier trials by L0" if few else f"The {len(rows)} of {len(every)} that nothing dominates"
        return table(_columns(metrics), rows, caption=caption, sortable=True), paragraph(pooled, "note")


def _columns(metrics: Sequence[Metric]) -> list[Column]:
    return [
        Column("trial"),
        Column("L0", numeric=True, hint="Mean number of firing latents per token"),
        Column("delta-CE", numeric=True, hint="Extra loss when the reconstruction replaces the activation"),
        Column("pooled", hint="Non-dominated among the trials of all architectures"),
        *(Column(metric.title, numeric=True, hint=metric.hint) for metric in metrics),
        Column("hyper-parameters"),
    ]


def _row(entry: ArchitectureSummary, trial: TrialRow, metrics: Sequence[Metric]) -> list[Cell | str | Markup]:
    params = Markup(" ").join(
        Markup('<span class="param"><span>{}</span> {}</span>').format(key, number(value, 4))
        for key, value in trial.params.items()
    )
    return [
        Cell(swatch(entry.colour, entry.symbol) + link(trial.run_url, trial.uid), sort=trial.uid),
        Cell(number(trial.l0, 4), sort=trial.l0),
        Cell(number(trial.delta_ce, 4), sort=trial.delta_ce),
        Cell(
            Markup('<span aria-label="yes">&#9679;</span>') if trial.on_pooled_frontier else "",
            sort=int(trial.on_pooled_frontier),
        ),
        *(Cell(metric.text(trial), sort=trial.metrics.get(metric.key)) for metric in metrics),
        params,
    ]


CARD = TrialsCard()
