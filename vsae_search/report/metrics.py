"""Which metrics stand in tables and hovers, and how they are headed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.references import ReferenceRow


class Metric(NamedTuple):
    """A metric with its heading and its definition in a few words."""

    key: str
    title: str
    hint: str
    fraction: bool = False

    def text(self, row: TrialRow | ReferenceRow) -> str:
        """The value of a trial, or of a reference, as text."""
        value = row.metrics.get(self.key)
        return percent(value) if self.fraction else number(value)


_HEADLINE = (
    Metric("dead_fraction", "dead", "Latents that never fire on the evaluation set", fraction=True),
    Metric("dense_fraction", "dense", "Latents that fire on more than a tenth of the tokens", fraction=True),
    Metric("fvu", "FVU", "Fraction of the activation's variance that is left unexplained"),
    Metric("ce_score_mean", "CE score", "Share of the mean-ablation loss that is recovered"),
    Metric("mmcs", "MMCS", "Mean over true features of the largest cosine with a decoder row"),
    Metric("null_mmcs", "MMCS null", "The same for a random dictionary of the same size"),
    Metric("mcc", "MCC", "Mean cosine under the best one-to-one matching with the true features"),
    Metric("recovered_fraction", "recovered", "True features that some latent recovers", fraction=True),
)


def headline(data: ReportData) -> tuple[Metric, ...]:
    """The metrics of the table and the hover that at least one trial of this sweep has."""
    present = {key for row in data.trials for key, value in row.metrics.items() if value is not None}
    return tuple(metric for metric in _HEADLINE if metric.key in present)
