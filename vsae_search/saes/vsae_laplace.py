"""Variational autoencoder with a Gaussian posterior and a Laplace prior: a smooth L1 penalty.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._posterior import Moments, laplace
from vsae_search.saes._thresholded import ThresholdedMean, ThresholdedMeanConfig
from vsae_search.saes._variational import COLLAPSED_NATS, VariationalConfig, VariationalSae
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


class VsaeLaplaceConfig(ThresholdedMeanConfig, VariationalConfig):
    """Hyper-parameters of :class:`VsaeLaplace`."""

    l1_coefficient: float = Field(
        default=1.0,
        gt=0,
        description="Slope of the penalty at large latents, comparable with an L1 coefficient: the prior has scale "
        "b = 2 observation_variance / l1_coefficient.",
    )


@register("vsae_laplace")
class VsaeLaplace(ThresholdedMean, VariationalSae):
    """``q(z|x) = N(μ, σ²)``, ``μ = ReLU((x - b_dec) W_enc + b_enc)``, ``p(z) = exp(-|z|/b) / 2b``, ``‖w_i‖ = 1``.

    ``κ KL`` tends to ``(κ/b) |μ|`` plus a constant as ``σ -> 0``: an L1 penalty of coefficient ``κ/b``, rounded off
    over the width ``σ``. A latent that is small against ``σ`` is therefore hardly pushed to 0, and the code (the
    posterior mean) has many small entries; ``target_l0`` cuts them off afterwards. ``σ`` is learned per latent: its
    optimum depends on the input only where ``μ < σ``.

    Reference:
        Barello, Charles & Pillow, "Sparse-coding variational auto-encoders" (2018), with the expectation in closed
        form.
    """

    Config: ClassVar[type[SaeConfig]] = VsaeLaplaceConfig
    config: VsaeLaplaceConfig

    def prior_precision(self) -> float:
        """0: the log-density is linear away from 0."""
        return 0.0

    def prior_scale(self) -> float:
        """``b``."""
        return self.kappa / self.config.l1_coefficient

    def collapse_threshold(self) -> float:
        """0.01 nats above the least divergence, ``1 + log 2 - log(π²e)/2 = 0.048``, of a normal from a Laplace law."""
        return COLLAPSED_NATS + 0.5 + math.log(2.0 / math.pi)

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the Gaussian posterior, and which latents have a positive mean."""
        mu_BF = self.posterior_mean(x_BD)
        return laplace(mu_BF, self.log_variance, scale=self.prior_scale()), mu_BF.detach().amax(0) > 0

    def presence(self, x_BD: Tensor) -> Tensor:
        """1 everywhere [B, F]: a Gaussian sample is never 0."""
        return torch.ones_like(self.preactivations(x_BD))
