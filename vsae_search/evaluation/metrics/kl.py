"""How far the subject's predictions move when the reconstruction replaces the activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.evaluation.base import Metric, MetricInfo
from vsae_search.subjects import ComparesPredictions

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary


class PredictionDivergence(Metric):
    """KL divergence of the spliced predictions from the untouched ones, for subjects that predict tokens.

    Unlike the extra cross-entropy it cannot be negative and does not depend on which token really came next, so it is
    also free of the luck of single tokens. Both distributions come from float32 logits; the mean is over predictions
    within a sequence and then over sequences.

    Reference: Gurnee, "SAE reconstruction errors are (empirically) pathological", 2024.
    """

    infos = (
        MetricInfo(
            "kl",
            "nats/token",
            "lower",
            "Mean over sequences of the mean KL(p || q) of next-token predictions, p untouched and q spliced.",
        ),
        MetricInfo("kl_sequences", "array", "none", "Mean KL of every sequence, float64, for the bootstrap."),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        context.reconstruction.compare_predictions = True

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Only a subject that predicts has predictions to compare."""
        return isinstance(context.subject, ComparesPredictions)

    def update(self, batch: Batch) -> None:
        """Store the chunk's reconstruction in the subject's units."""
        self.context.reconstruction.add(batch)

    def result(self, summary: Summary) -> Values:
        """Average the divergence over sequences."""
        del summary
        kl_S = self.context.reconstruction.spliced.kl_S
        assert kl_S is not None, "it was asked for before the splice"
        return {"kl": float(kl_S.mean()), "kl_sequences": kl_S}
