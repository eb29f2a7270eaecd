"""Codes that are a rectified posterior mean, cut off below one calibrated threshold where that is asked for.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._jump import Float32Threshold, exceeds, fold_with_threshold
from vsae_search.saes._threshold import row_chunks, threshold_for_l0
from vsae_search.saes.base import SaeConfig, SparseAutoencoder

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.canonical import CanonicalSae


class ThresholdedMeanConfig(SaeConfig):
    """Hyper-parameters of :class:`ThresholdedMean`."""

    target_l0: float | None = Field(
        default=None,
        gt=0,
        description="Calibrate one firing threshold on held-out rows to this L0; left out, a latent fires above 0.",
    )


class ThresholdedMean(Float32Threshold, SparseAutoencoder):
    """``f = μ 1[μ > θ]`` with ``μ = ReLU((x - b_dec) W_enc + b_enc)``; training knows ``μ`` and nothing of ``θ``.

    A Gaussian prior leaves many small means; ``target_l0`` cuts them off after training.
    """

    Config: ClassVar[type[SaeConfig]] = ThresholdedMeanConfig
    config: ThresholdedMeanConfig
    threshold: Tensor

    def build(self) -> None:
        """Add the inference threshold []."""
        super().build()
        self.register_buffer("threshold", torch.zeros(()))

    def posterior_mean(self, x_BD: Tensor) -> Tensor:
        """``μ`` [B, F] of scaled activations [B, D]."""
        return self.preactivations(x_BD).relu()

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F]: the posterior mean where it is above the calibrated threshold."""
        mu_BF = self.posterior_mean(x_BD)
        if self.config.target_l0 is None:
            return mu_BF
        return mu_BF * exceeds(mu_BF, self.threshold.view(1))  # as a vector, or it would be rounded to the mean's type

    def training_code(self, x_BD: Tensor) -> Tensor:
        """The posterior mean [B, F]."""
        return self.posterior_mean(x_BD)

    @torch.no_grad()
    def calibrate(self, x_BD: Tensor) -> None:
        """As the base, and the threshold for ``target_l0``, on held-out scaled activations [B, D]."""
        super().calibrate(x_BD)
        if self.config.target_l0 is not None:
            codes = (self.posterior_mean(chunk_BD) for chunk_BD in row_chunks(x_BD, self.config.d_sae))
            self.threshold.fill_(threshold_for_l0(codes, len(x_BD), self.config.target_l0))

    def canonical(self) -> CanonicalSae:
        """Folded inference form of the posterior mean, with the calibrated threshold where there is one."""
        if self.config.target_l0 is None:
            return super().canonical()
        return fold_with_threshold(self, self.threshold.expand(self.config.d_sae))
