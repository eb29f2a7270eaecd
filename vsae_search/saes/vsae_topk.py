"""Variational autoencoder whose k latents with the largest posterior mean are decoded.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from vsae_search.saes._auxk import keep_largest
from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes._posterior import Moments, at_least_float32, normal_kl_offset
from vsae_search.saes._sparse import sparse_reconstruction_loss
from vsae_search.saes._sparse_select import TopOfRow, fixed_pays
from vsae_search.saes._sparse_squares import PositiveSquares
from vsae_search.saes._variational import (
    COLLAPSED_NATS,
    VariationalConfig,
    VariationalSae,
    sparse_collapse_threshold,
)
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import Loss, SaeConfig


class VsaeTopKConfig(VariationalConfig, KeptConfig):
    """Hyper-parameters of :class:`VsaeTopK`."""

    prior_scale: float = Field(default=1.0, gt=0, description="Factor c of the variance of the prior, c d_in / k.")
    kl_scope: Literal["active", "all"] = Field(
        default="active",
        description="Latents of a token whose divergence counts: the k that are decoded, or all, which also shrinks "
        "the pre-activations of latents that lose.",
    )


@register("vsae_topk")
class VsaeTopK(KeepsLargest, VariationalSae):
    """``q(z_i|x) = N(μ_i, σ_i²)`` for the ``k`` largest ``μ = ReLU((x - b_dec) W_enc + b_enc)``, ``p = N(0, s²)``.

    The other latents are 0. ``s² = prior_scale d_in / k``. With ``kl_scope = active`` the divergence of a token is that
    of its active latents (a latent that is off is off under the prior, too); with ``all`` every latent of every token
    is drawn from ``N(μ_i, σ_i²)`` and pays, decoded or not.

    The sparsity is that of TopK. What the divergence adds is a ridge penalty ``κ μ² / 2s²`` on the latents in scope,
    and a noise variance per latent that ``x`` does not influence: read results against ``topk``.

    Reference:
        Baker & Li, "Analysis of variational sparse autoencoders" (2025), with the divergence and the expectation
        written out instead of ``½‖μ‖²``.
    """

    Config: ClassVar[type[SaeConfig]] = VsaeTopKConfig
    config: VsaeTopKConfig

    def prior_variance(self) -> float:
        """``s²``."""
        return self.config.prior_scale * self.config.d_in / self.config.k

    def prior_precision(self) -> float:
        """``1/s²``."""
        return 1.0 / self.prior_variance()

    def collapse_threshold(self) -> float:
        """By the share ``k / d_sae`` of tokens on which a latent pays, or 0.01 nats where it always does."""
        dense = self.config.kl_scope == "all"
        return COLLAPSED_NATS if dense else sparse_collapse_threshold(self.config.k / self.config.d_sae)

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """As the base; where active entries are few, from them, and from sums over all where all pay."""
        if not fixed_pays(self, x_BD, self.config.k):
            return super().loss(x_BD, progress)
        squares = PositiveSquares(self) if self.config.kl_scope == "all" else None
        f_N, support, dead = self.sparse_code(x_BD, TopOfRow(self.config.k), squares)
        reconstruction, error_BD = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
        square_F = (support.sum_by_latent(f_N.square()) if squares is None else squares.by_latent()) / len(x_BD)
        active_F = support.sum_by_latent((f_N.detach() > 0).to(f_N.dtype)) / len(x_BD)
        share_F = active_F if squares is None else torch.ones_like(active_F)
        variance_F, kl_F = self._variance_and_kl(square_F, share_F, active_F)
        auxk = self.sparse_auxk(x_BD, error_BD, dead)
        return self.combine(reconstruction, variance_F, kl_F, auxk, active_F > 0, progress)

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the Gaussian posterior of active latents, and which latents fired."""
        pre_BF = self.preactivations(x_BD)
        f_BF = keep_largest(pre_BF, self.config.k)
        active_F = (f_BF.detach() > 0).to(at_least_float32(self.log_variance).dtype).mean(0)
        if self.config.kl_scope == "all":
            in_scope_BF, share_F = pre_BF.relu(), torch.ones_like(active_F)
        else:
            in_scope_BF, share_F = f_BF, active_F
        square_F = at_least_float32(in_scope_BF).square().mean(0)
        return Moments(f_BF, *self._variance_and_kl(square_F, share_F, active_F)), active_F > 0

    def _variance_and_kl(self, square_F: Tensor, share_F: Tensor, active_F: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and divergence per latent [F].

        Args:
            square_F: Mean of ``μ²`` over tokens, 0 where the latent is out of scope [F].
            share_F: Share of tokens on which the latent is in scope [F].
            active_F: Share of tokens on which it is decoded [F].

        Returns:
            Both, mean over tokens.
        """
        log_variance_F = at_least_float32(self.log_variance)
        offset_F = normal_kl_offset(log_variance_F, self.prior_variance())
        return log_variance_F.exp() * active_F, square_F * (0.5 / self.prior_variance()) + offset_F * share_F

    def presence(self, x_BD: Tensor) -> Tensor:
        """1 for active latents [B, F], 0 for the others."""
        f_BF = self.encode(x_BD)
        return (f_BF > 0).to(f_BF.dtype)
