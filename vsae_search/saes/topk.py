"""TopK autoencoder with the auxiliary loss on dead latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._affine import encoder_affine
from vsae_search.saes._auxk import auxk_loss
from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes._sparse import selected_preactivations, sparse_auxk_loss, sparse_reconstruction_loss
from vsae_search.saes._sparse_select import TopOfRow, auxiliary_pays, fixed_pays
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes._sparse import Selected, Support
    from vsae_search.saes._sparse_select import Rule


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
        if fixed_pays(self, x_BD, self.config.k):
            return self.sparse_loss(x_BD, TopOfRow(self.config.k))
        f_BF = self.encode(x_BD)
        reconstruction, error_BD = self.reconstruction(f_BF, x_BD)
        fired_F = f_BF.detach().sum(0) > 0
        auxk = self.auxk(x_BD, error_BD)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)

    def sparse_loss(self, x_BD: Tensor, rule: Rule) -> Loss:
        """The same loss, with its gradients, from the selected entries of the code alone.

        Args:
            x_BD: Scaled activations [B, D].
            rule: Selects the entries.

        Returns:
            The loss with its named parts.
        """
        f_N, support, dead = self.sparse_code(x_BD, rule)
        reconstruction, error_BD = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
        fired_F = support.sum_by_latent(f_N.detach()) > 0
        auxk = self.sparse_auxk(x_BD, error_BD, dead)
        return Loss(reconstruction + auxk, reconstruction, {"auxk": auxk}, fired_F)

    def sparse_code(self, x_BD: Tensor, rule: Rule) -> tuple[Tensor, Support, Selected | None]:
        """Selected entries of the code and what the auxiliary loss needs, from one pass over the encoder.

        Args:
            x_BD: Scaled activations [B, D].
            rule: Selects the entries.

        Returns:
            Values [N] of the code, where they are, and entries of dead latents if those are to be treated as sparse.
        """
        rules = [rule]
        if self.config.aux_coefficient > 0 and auxiliary_pays(self.aux_k(), len(self.dead_K)):
            rules.append(TopOfRow(self.aux_k(), among_M=self.dead_K))
        (pre_N, _, support), *dead = selected_preactivations(self, x_BD, rules)
        return pre_N.relu(), support, dead[0] if dead else None

    def sparse_auxk(self, x_BD: Tensor, error_BD: Tensor, dead: Selected | None) -> Tensor:
        """As :meth:`auxk`, from the entries of dead latents where :meth:`sparse_code` found it worth having them."""
        if dead is None:
            return self.auxk(x_BD, error_BD)
        return self.config.aux_coefficient * sparse_auxk_loss(dead, self.W_dec, error_BD)

    def aux_k(self) -> int:
        """Dead latents per token in the auxiliary loss."""
        return self.config.aux_k or max(1, self.config.d_in // 2)

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
        auxk = auxk_loss(pre_BN, self.W_dec.index_select(0, self.dead_K), error_BD, self.aux_k())
        return self.config.aux_coefficient * auxk

    def resample_at(self) -> tuple[float, ...]:
        """The auxiliary loss cannot reach a latent whose pre-activation is never positive; those are resampled."""
        return (0.25, 0.5)

    @torch.no_grad()
    def resample_candidates(self, dead_F: Tensor, x_BD: Tensor) -> Tensor:
        """Dead latents whose pre-activation is negative on every token of the batch."""
        return dead_F & (self.preactivations(x_BD).amax(0) <= 0)
