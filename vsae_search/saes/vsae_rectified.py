"""Variational autoencoder with a rectified Gaussian posterior and prior: latents are 0 with positive probability.

Shapes: B batch, D d_in, F d_sae, N replaced latents.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._posterior import Moments, at_least_float32, rectified
from vsae_search.saes._variational import SparsePriorConfig, SparsePriorSae
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


class VsaeRectifiedConfig(SparsePriorConfig):
    """Hyper-parameters of :class:`VsaeRectified`."""

    prior_scale: float = Field(
        default=3.0,
        gt=0,
        description="Factor c of the prior variance before rectification, c d_in / prior_l0. Only the upper tail is "
        "left, whose mean square is about a third of it at alpha = 0.05; hence 3.",
    )


@register("vsae_rectified")
class VsaeRectified(SparsePriorSae):
    """``z = max(0, u)``: ``q(u|x) = N(μ, σ²)``, ``μ = (x - b_dec) W_enc + b_enc``; ``p(u) = N(m, s²)``.

    ``m = s Φ⁻¹(α)``, so that a latent is on with probability ``α = prior_l0 / d_sae`` under the prior; ``s² =
    prior_scale d_in / prior_l0``. Moments and divergence: :func:`~vsae_search.saes._posterior.rectified`. The code is
    ``f = ReLU(μ)``, not 0 where the latent is more likely on than off: an ordinary ReLU encoder.

    Reference:
        Salimans, "A structured variational auto-encoder for learning deep hierarchies of sparse features" (2016).
    """

    Config: ClassVar[type[SaeConfig]] = VsaeRectifiedConfig
    config: VsaeRectifiedConfig

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """As the base; encoder biases so low that latents are on with probability ``max(alpha, 0.1)``."""
        super().reset_parameters(generator)
        self.b_enc.fill_(self._initial_bias())

    def _initial_bias(self) -> float:
        # pre-activations by unit columns have variance 1 over tokens, the posterior adds σ²
        return NormalDist().inv_cdf(self.initial_presence()) * math.sqrt(1.0 + self.optimal_variance())

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F]: ``μ`` where it is positive, exactly 0 elsewhere."""
        return self.preactivations(x_BD).relu()

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the rectified posterior, and which latents fired."""
        mu_BF = self.preactivations(x_BD)
        variance = self.config.prior_variance
        mean = math.sqrt(variance) * NormalDist().inv_cdf(self.config.alpha)
        moments = rectified(mu_BF, self.log_variance, prior_mean=mean, prior_variance=variance)
        return moments, mu_BF.detach().amax(0) > 0

    def presence(self, x_BD: Tensor) -> Tensor:
        """``Φ(μ/σ)`` [B, F]."""
        sigma_F = (0.5 * at_least_float32(self.log_variance)).exp()
        presence_BF: Tensor = torch.special.ndtr(at_least_float32(self.preactivations(x_BD)) / sigma_F)
        return presence_BF

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, but with encoder columns of the norm of living ones and the low bias of the start.

        With bias 0 a weak latent would be on half of the time, for every token.
        """
        super().replace_latents(index_N, direction_ND, alive_F)
        self.W_enc[:, index_N] *= 5.0
        self.b_enc[index_N] = self._initial_bias()
