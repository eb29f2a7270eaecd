"""ReLU autoencoder with a norm-weighted L1 penalty and a free decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._resampling import ResamplesDead, ResamplesDeadConfig
from vsae_search.saes._sparse import rectified_reconstruction
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class AprilConfig(ResamplesDeadConfig):
    """Hyper-parameters of :class:`April`."""

    l1_coefficient: float = Field(
        default=1.0, ge=0, description="Weight of the L1 penalty on code times decoder norm (about 5 for long runs)."
    )


@register("april")
class April(ResamplesDead):
    """``f = ReLU(x W_enc + b_enc)``, loss ``‖x - xhat‖² + λ Σ f_i ‖w_i‖``; the decoder norm is free.

    The penalty does not change under ``f_i -> f_i / c, w_i -> c w_i``, so no constraint on the norm is needed.

    Reference:
        Anthropic, "Circuits Updates - April 2024": training sparse autoencoders.
    """

    Config: ClassVar[type[SaeConfig]] = AprilConfig
    subtract_b_dec: ClassVar[bool] = False
    unit_norm_decoder: ClassVar[bool] = False
    initial_decoder_norm: ClassVar[float] = 0.1
    config: AprilConfig

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        return self.preactivations(x_BD).relu()

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE plus the warmed-up, norm-weighted L1 penalty, mean over tokens."""
        reconstruction, mass_F = rectified_reconstruction(self, x_BD)
        norm_F = torch.linalg.vector_norm(self.W_dec, dim=1)
        l1 = torch.dot(mass_F, norm_F) * (self.config.l1_coefficient * self.warm_up(progress) / len(x_BD))
        return Loss(reconstruction + l1, reconstruction, {"l1": l1}, mass_F.detach() > 0)
