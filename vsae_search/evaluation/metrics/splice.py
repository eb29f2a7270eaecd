"""What the reconstruction does to the subject when it replaces the activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Batch, Values
    from vsae_search.evaluation.summary import Summary


class Splice(Metric):
    """Extra loss of the subject when the reconstruction replaces the activation, and what share of ablation it undoes.

    For a language model the loss is cross-entropy in nats; for a toy subject it is the toy model's own loss
    (``subject.loss_name``, ``subject.loss_unit``) and a sequence is one sample. The reconstruction is brought back to
    the subject's units first; where it equals the scaled activation exactly the activation itself is put back, so
    that a perfect autoencoder costs exactly 0. A score is a ratio of sums, never a mean of ratios, and is left out
    when ablation does no harm (its denominator is not positive). The standard error is that of a mean of independent
    sequences and needs at least two of them.

    Reference: Bricken et al., "Towards Monosemanticity", 2023 (loss recovered); Rajamanoharan et al., 2024, section 4.
    """

    infos = (
        MetricInfo("delta_ce", "subject loss", "lower", "ce_spliced - ce_clean."),
        MetricInfo(
            "delta_ce_se", "subject loss", "lower", "Standard error of delta_ce: std over sequences / sqrt(sequences)."
        ),
        MetricInfo("ce_clean", "subject loss", "none", "Mean loss over sequences with the activation untouched."),
        MetricInfo("ce_spliced", "subject loss", "lower", "Mean loss with the reconstruction in its place."),
        MetricInfo("ce_zero", "subject loss", "none", "Mean loss with 0 in its place."),
        MetricInfo("ce_mean", "subject loss", "none", "Mean loss with the mean of the evaluation rows in its place."),
        MetricInfo(
            "ce_score_zero",
            "1",
            "higher",
            "(ce_zero - ce_spliced) / (ce_zero - ce_clean); 1 is perfect, 0 is ablation.",
        ),
        MetricInfo(
            "ce_score_mean",
            "1",
            "higher",
            "(ce_mean - ce_spliced) / (ce_mean - ce_clean); 1 is perfect, 0 is ablation.",
        ),
        MetricInfo("delta_ce_sequences", "array", "none", "Extra loss of every sequence, float64, for the bootstrap."),
    )

    def update(self, batch: Batch) -> None:
        """Store the chunk's reconstruction in the subject's units."""
        self.context.reconstruction.add(batch)

    def result(self, summary: Summary) -> Values:
        """Compare the losses of the splice with those of the subject untouched and ablated."""
        del summary
        baseline = self.context.baseline
        spliced_S = self.context.reconstruction.spliced.loss_S
        assert spliced_S.shape == baseline.clean_S.shape, "splice and baseline must agree on the sequences"
        delta_S = spliced_S - baseline.clean_S
        clean, spliced = float(baseline.clean_S.mean()), float(spliced_S.mean())
        found: Values = {"delta_ce": float(delta_S.mean()), "ce_clean": clean, "ce_spliced": spliced}
        if len(delta_S) > 1:
            with np.errstate(invalid="ignore"):  # infinite losses are reported as a divergence, not as a warning
                found["delta_ce_se"] = float(delta_S.std(ddof=1) / np.sqrt(len(delta_S)))
        for name, ablated_S in (("zero", baseline.zero_S), ("mean", baseline.mean_S)):
            ablated = float(ablated_S.mean())
            found[f"ce_{name}"] = ablated
            if ablated > clean:
                found[f"ce_score_{name}"] = (ablated - spliced) / (ablated - clean)
        found["delta_ce_sequences"] = delta_S
        return found
