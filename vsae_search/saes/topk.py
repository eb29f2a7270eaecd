"""TopK autoencoder with the auxiliary loss on dead latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._affine import encoder_affine
from vsae_search.saes._auxk import auxk_loss
from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class TopKConfig(KeptConfig):
    """Hyper-parameters of :class:`TopK`."""

    aux_coefficient: float = Field(
        default=1 / 32, ge=0, description="Weight of the auxiliary loss on dead latents; 0 switches it off."
    )
    aux_k: int | None = Field(
        default=None, gt=0, description="Dead latents per token in the auxiliary loss; left out, half of d_in."
    )


@register("topk")
class TopK(KeepsLargest):
    """``f = `` the ``k`` largest of ``ReLU((x - b_dec) W_enc + b_enc)``; loss ``‖x - xhat‖² + α AuxK``; ``‖w_i‖ = 1``.

    A token with fewer than ``k`` positive pre-activations has fewer than ``k`` firing latents.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders" (2024), sections 2.3-2.4.
    """

    Config: ClassVar[type[SaeConfig]] = TopKConfig
    adam_eps: ClassVar[float] = 6.25e-10
    config: TopKConfig

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, plus the auxiliary loss while some latents are marked dead."""
        del progress  # neither the code nor the auxiliary loss is warmed up
        f_BF = self.encode(x_BD)
        reconstruction, error_BD = self.reconstruction(f_BF, x_BD)
        fired_F = f_BF.detach().sum(0) > 0
        auxk = self.auxk(x_BD, error_BD)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)

    def auxk(self, x_BD: Tensor, error_BD: Tensor) -> Tensor:
        """Weighted auxiliary loss of the latents marked dead, 0 without any.

        Args:
            x_BD: Scaled activations [B, D].
            error_BD: Detached reconstruction error ``xhat - x`` [B, D].

        Returns:
            Scalar.
        """
        if self.config.aux_coefficient == 0 or len(self.dead_K) == 0:
            return error_BD.new_zeros(())
        # b_dec is held constant here: the auxiliary loss is to move dead latents and nothing else
        pre_BN = encoder_affine(
            x_BD - self.b_dec.detach(), self.W_enc.index_select(1, self.dead_K), self.b_enc[self.dead_K], None
        )
        k_aux = self.config.aux_k or max(1, self.config.d_in // 2)
        auxk = auxk_loss(pre_BN, self.W_dec.index_select(0, self.dead_K), error_BD, k_aux)
        return self.config.aux_coefficient * auxk

    def resample_at(self) -> tuple[float, ...]:
        """The auxiliary loss cannot reach a latent whose pre-activation is never positive; those are resampled."""
        return (0.25, 0.5)

    @torch.no_grad()
    def resample_candidates(self, dead_F: Tensor, x_BD: Tensor) -> Tensor:
        """Dead latents whose pre-activation is negative on every token of the batch."""
        return dead_F & (self.preactivations(x_BD).amax(0) <= 0)
