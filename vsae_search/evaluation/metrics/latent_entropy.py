"""Over how many rows the activity of one latent is spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary


class LatentEntropy(Metric):
    """Entropy over rows of the activity of one latent, averaged over the alive ones.

    q_jt = |f_jt| / sum over t; H_j = -sum q log q; the number is the mean of H_j / log N over latents that fire. 1 is
    the same activity on every row, 0 all of it on one row; a latent that fires equally on a share p of the rows has
    1 + log p / log N, so the number of rows matters. Streamed: H_j = log S_j - (sum |f| log |f|) / S_j with
    S_j = sum |f|. Left out when no latent fires or there is one row only.

    Reference: named but not defined in work on variational sparse autoencoders; Shannon entropy across tokens.
    """

    infos = (
        MetricInfo("latent_entropy", "1", "none", "Mean over firing latents of the entropy of |f| over rows, / log N."),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sum_F = torch.zeros(context.d_sae, dtype=torch.float64)
        self._entropy_F = torch.zeros(context.d_sae, dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Take in one chunk."""
        strength_BF = batch.strength_BF
        # clamped to the smallest float32, log(0) becomes 0 * log(tiny) = 0; several times faster than special.entr
        spread_BF = strength_BF.clamp_min(torch.finfo(strength_BF.dtype).tiny).log_().mul_(strength_BF)
        self._sum_F += strength_BF.sum(dim=0, dtype=torch.float64).cpu()
        self._entropy_F -= spread_BF.sum(dim=0, dtype=torch.float64).cpu()

    def result(self, summary: Summary) -> Values:
        """Return the mean over the latents that fire."""
        sum_F, entropy_F = self._sum_F.numpy(), self._entropy_F.numpy()
        fires_F = sum_F > 0
        if summary.num_rows < 2 or not fires_F.any():
            return {}
        entropy = np.log(sum_F[fires_F]) + entropy_F[fires_F] / sum_F[fires_F]
        # Rounding can take an entropy of 0 or log N a little past its end.
        return {"latent_entropy": float(np.clip(entropy / np.log(summary.num_rows), 0.0, 1.0).mean())}
