"""ReLU autoencoder with an L1 penalty and a unit-norm decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vsae_search.saes._resampling import ResamplesDead, ResamplesDeadConfig
from vsae_search.saes._sparse import rectified_reconstruction
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class ReluConfig(ResamplesDeadConfig):
    """Hyper-parameters of :class:`Relu`."""

    l1_coefficient: float = Field(
        default=1.0, ge=0, description="Weight of the L1 penalty; shrinks an active latent by half of it."
    )


@register("relu")
class Relu(ResamplesDead):
    """``f = ReLU((x - b_dec) W_enc + b_enc)``, loss ``‖x - xhat‖² + λ Σ f``, ``‖w_i‖ = 1``.

    Reference:
        Bricken et al., "Towards Monosemanticity" (2023).
    """

    Config: ClassVar[type[SaeConfig]] = ReluConfig
    config: ReluConfig

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        return self.preactivations(x_BD).relu()

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE plus the warmed-up L1 penalty, mean over tokens."""
        # one pass over the code serves the penalty and the firing mask, since f >= 0
        reconstruction, mass_F = rectified_reconstruction(self, x_BD)
        l1 = mass_F.sum() * (self.config.l1_coefficient * self.warm_up(progress) / len(x_BD))
        return Loss(reconstruction + l1, reconstruction, {"l1": l1}, mass_F.detach() > 0)
