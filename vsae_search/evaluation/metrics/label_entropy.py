"""Over how many true sets, or features, the activity of one latent is spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary


def normalised_entropy(mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row of a non-negative table as a share of log(columns); each row sums to > 0."""
    share = mass / mass.sum(axis=1, keepdims=True)
    logs = np.log(np.where(share > 0, share, 1.0))
    return np.asarray(-(share * logs).sum(axis=1) / np.log(mass.shape[1]))


class LabelEntropy(Metric):
    """Entropy of a latent's activity over the true sets (or features) that are present while it fires.

    A_js = sum over rows of |f_j| times the number of present features of set s; P_js = A_js / sum over s; the entropy
    of P_j is divided by log(number of sets) and averaged over latents, weighted with sum |f_j| ||w_j||. A feature
    outside the sets is a set of its own; only represented features count. A perfect latent does not reach 0: other
    features are present by chance on its rows, more of them the denser the data. Compare at one data set only. Left
    out: label_entropy without true sets, both with fewer than two labels or if no feature is ever present while a
    latent fires.

    Reference: definition of this project.
    """

    infos = (
        MetricInfo("label_entropy", "1", "lower", "Activity-weighted mean entropy of latents over true sets, / log S."),
        MetricInfo(
            "feature_entanglement_entropy",
            "1",
            "lower",
            "Activity-weighted mean entropy of latents over represented features, / log M.",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.truth is not None
        self._mass_FM = torch.zeros(context.d_sae, context.truth.size, dtype=torch.float64)

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether it is known which features are present."""
        return context.truth is not None and context.rows.features_NM is not None

    def update(self, batch: Batch) -> None:
        """Take in one chunk; its terms are non-negative, so float32 is safe within it, and chunks add up in float64."""
        assert batch.present_BM is not None
        self._mass_FM += (batch.strength_BF.T @ batch.present_BM).double().cpu()

    def result(self, summary: Summary) -> Values:
        """Return the entropies over sets and over features."""
        truth, mass_FM = summary.truth, self._mass_FM.numpy()
        assert truth is not None
        used_F = (mass_FM.sum(axis=1) > 0) & (summary.activity_F > 0)
        if not used_F.any():
            return {}
        mass, weight = mass_FM[used_F], summary.activity_F[used_F]
        found: Values = {}
        if truth.size > 1:
            found["feature_entanglement_entropy"] = float(np.average(normalised_entropy(mass), weights=weight))
        if truth.groups and truth.num_sets > 1:
            member_MS = np.eye(truth.num_sets)[truth.set_M]
            found["label_entropy"] = float(np.average(normalised_entropy(mass @ member_MS), weights=weight))
        return found
