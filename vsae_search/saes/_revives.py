"""Reviving dead latents with the auxiliary loss, for architectures whose objective would leave them dead.

Shapes: B batch, D d_in, F d_sae, N entries of the code that may differ from zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._affine import encoder_affine
from vsae_search.saes._auxk import auxk_loss
from vsae_search.saes._sparse import selected_preactivations, sparse_auxk_loss
from vsae_search.saes._sparse_select import TopOfRow, auxiliary_pays
from vsae_search.saes.base import SaeConfig, SparseAutoencoder

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes._sparse import Selected, Support
    from vsae_search.saes._sparse_select import Rule
    from vsae_search.saes._sparse_squares import PositiveSquares


class RevivesDeadConfig(SaeConfig):
    """Hyper-parameters of :class:`RevivesDead`."""

    aux_coefficient: float = Field(
        default=1 / 32, ge=0, description="Weight of the auxiliary loss on dead latents; 0 switches it off."
    )
    aux_k: int | None = Field(
        default=None, gt=0, description="Dead latents per token in the auxiliary loss; left out, half of d_in."
    )


class RevivesDead(SparseAutoencoder):
    """An autoencoder whose dead latents learn to reconstruct what the living ones leave over.

    Those that this cannot reach, because they never have a positive pre-activation, are resampled.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders" (2024), appendix A.2.
    """

    Config: ClassVar[type[SaeConfig]] = RevivesDeadConfig
    config: RevivesDeadConfig

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

    def sparse_code(
        self, x_BD: Tensor, rule: Rule, squares: PositiveSquares | None = None
    ) -> tuple[Tensor, Support, Selected | None]:
        """Selected entries of the code and what the auxiliary loss needs, from one pass over the encoder.

        Args:
            x_BD: Scaled activations [B, D].
            rule: Selects the entries.
            squares: Is shown all pre-activations on the way.

        Returns:
            Values [N] of the code, where they are, and entries of dead latents if those are to be treated as sparse.
        """
        rules = [rule]
        if self.config.aux_coefficient > 0 and auxiliary_pays(self.aux_k(), len(self.dead_K)):
            rules.append(TopOfRow(self.aux_k(), among_M=self.dead_K))
        (pre_N, _, support), *dead = selected_preactivations(self, x_BD, rules, squares)
        return pre_N.relu(), support, dead[0] if dead else None

    def sparse_auxk(self, x_BD: Tensor, error_BD: Tensor, dead: Selected | None) -> Tensor:
        """As :meth:`auxk`, from the entries of dead latents where :meth:`sparse_code` found it worth having them."""
        if dead is None:
            return self.auxk(x_BD, error_BD)
        return self.config.aux_coefficient * sparse_auxk_loss(dead, self.W_dec, error_BD)

    def resample_at(self) -> tuple[float, ...]:
        """The auxiliary loss cannot reach a latent whose pre-activation is never positive; those are resampled."""
        return (0.25, 0.5)

    @torch.no_grad()
    def resample_candidates(self, dead_F: Tensor, x_BD: Tensor) -> Tensor:
        """Dead latents whose pre-activation is negative on every token of the batch."""
        return dead_F & (self.preactivations(x_BD).amax(0) <= 0)
