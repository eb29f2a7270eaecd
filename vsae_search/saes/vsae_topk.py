"""Variational autoencoder whose k latents with the largest posterior mean are decoded.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vsae_search.saes._auxk import keep_largest
from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes._posterior import Moments, at_least_float32, normal_kl_offset
from vsae_search.saes._variational import (
    COLLAPSED_NATS,
    VariationalConfig,
    VariationalSae,
    sparse_collapse_threshold,
)
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


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
        return (
            COLLAPSED_NATS
            if self.config.kl_scope == "all"
            else sparse_collapse_threshold(self.config.k / self.config.d_sae)
        )

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the Gaussian posterior of active latents, and which latents fired."""
        pre_BF = self.preactivations(x_BD)
        f_BF = keep_largest(pre_BF, self.config.k)
        log_variance_F = at_least_float32(self.log_variance)
        offset_F = normal_kl_offset(log_variance_F, self.prior_variance())
        active_F = (f_BF.detach() > 0).to(log_variance_F.dtype).mean(0)
        if self.config.kl_scope == "all":
            kl_F = at_least_float32(pre_BF.relu()).square().mean(0) * (0.5 / self.prior_variance()) + offset_F
        else:
            kl_F = at_least_float32(f_BF).square().mean(0) * (0.5 / self.prior_variance()) + offset_F * active_F
        return Moments(f_BF, log_variance_F.exp() * active_F, kl_F), active_F > 0

    def presence(self, x_BD: Tensor) -> Tensor:
        """1 for active latents [B, F], 0 for the others."""
        f_BF = self.encode(x_BD)
        return (f_BF > 0).to(f_BF.dtype)
