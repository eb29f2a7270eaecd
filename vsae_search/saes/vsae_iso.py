"""Variational autoencoder with a factorised Gaussian posterior and an isotropic Gaussian prior.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import nn

from vsae_search.saes._legacy_seed import LegacySeedConfig, LegacySeedSae, shifted_divergence
from vsae_search.saes._resampling import ResamplesDead, ResamplesDeadConfig
from vsae_search.saes._threshold import row_chunks
from vsae_search.saes._thresholded import ThresholdedMean, ThresholdedMeanConfig
from vsae_search.saes._variational import COLLAPSED_NATS, LOG_VARIANCE_MAX, LOG_VARIANCE_MIN
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class VsaeIsoConfig(ThresholdedMeanConfig, ResamplesDeadConfig, LegacySeedConfig):
    """Hyper-parameters of :class:`VsaeIso`."""

    kl_coefficient: float = Field(
        default=0.1,
        gt=0,
        description="Weight kappa of the KL divergence (nats per token) against the sum of squared errors; "
        "kappa / 2 is the observation variance of the model.",
    )
    learn_sigma: bool = Field(default=True, description="Learn one posterior standard deviation per latent.")
    initial_log_variance: float | None = Field(
        default=None,
        ge=LOG_VARIANCE_MIN,
        le=LOG_VARIANCE_MAX,
        description="Log of the posterior variance at the start (and for ever, without learn_sigma); "
        "left out, the optimum kappa / (2 + kappa).",
    )


@register("vsae_iso")
class VsaeIso(ThresholdedMean, ResamplesDead, LegacySeedSae):
    """``q(z|x) = N(μ, σ²)``, ``μ = ReLU((x - b_dec) W_enc + b_enc)``, prior ``N(0, 1)``, ``‖w_i‖ = 1``.

    Loss per token: ``E_q‖x - xhat‖² + κ KL(q ‖ p)``. The decoder is linear, so the expectation is exact,
    ``‖x - b_dec - μ W_dec‖² + Σ σ_i² ‖w_i‖²``, and nothing is sampled. With unit rows the best ``σ²`` is
    ``κ / (2 + κ)`` for every input: what is left is ridge regression on ``μ``, which spreads activity instead of
    concentrating it. A sparse code is therefore not to be expected; ``target_l0`` thresholds it afterwards.

    The code is the posterior mean, never a sample: a sampled Gaussian is never 0.

    Reference:
        Kingma & Welling, "Auto-encoding variational Bayes" (2014), appendix B; the collapse to ridge regression:
        Lucas et al., "Don't blame the ELBO!" (2019).
    """

    Config: ClassVar[type[SaeConfig]] = VsaeIsoConfig
    config: VsaeIsoConfig
    log_variance: nn.Parameter

    def build(self) -> None:
        """Add the posterior log-variances [F]."""
        super().build()
        kappa = self.config.kl_coefficient
        start = self.config.initial_log_variance
        if start is None:
            start = min(max(math.log(kappa / (2 + kappa)), LOG_VARIANCE_MIN), LOG_VARIANCE_MAX)
        self._initial_log_variance = start
        self.log_variance = nn.Parameter(torch.full((self.config.d_sae,), start), requires_grad=self.config.learn_sigma)
        self._diagnostics: dict[str, float] = {}
        self.build_legacy(learn_sigma=self.config.learn_sigma)

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Expected sum-MSE (``reconstruction`` by the mean, plus ``variance``) and warmed-up KL, mean over tokens."""
        if self.config.legacy_seed:
            return self.legacy_loss(x_BD, progress)
        mu_BF = self.posterior_mean(x_BD)
        reconstruction, _ = self.reconstruction(mu_BF, x_BD)
        # Σ σ_i² ‖w_i‖² with ‖w_i‖ = 1: its gradient along a decoder row would be projected away
        variance = self.log_variance.exp().sum()
        kl_nats, fired_F = self.divergence(mu_BF)
        kl = kl_nats * (self.config.kl_coefficient * self.warm_up(progress))
        total = reconstruction + variance + kl
        return Loss(total, reconstruction, {"variance": variance, "kl": kl}, fired_F)

    def divergence(self, mu_BF: Tensor) -> tuple[Tensor, Tensor]:
        """``KL(q ‖ p)`` in nats, mean over tokens, and which latents [F] (bool) fired on some token.

        Args:
            mu_BF: Posterior means [B, F].
        """
        square_sum_F = mu_BF.square().sum(0)
        prior_nats = 0.5 * (self.log_variance.exp().sum() - self.log_variance.sum() - self.config.d_sae)
        return square_sum_F.sum() * (0.5 / len(mu_BF)) + prior_nats, square_sum_F.detach() > 0

    def legacy_divergence(self, mu_BF: Tensor, log_variance_BF: Tensor) -> Tensor:
        """Sum over latents *and* over the batch."""
        return shifted_divergence(mu_BF, log_variance_BF).sum()

    def after_step(self) -> None:
        """Unit decoder rows; log-variances clamped as parameters, so that their gradient never dies at the bound."""
        super().after_step()
        self.log_variance.data.clamp_(LOG_VARIANCE_MIN, LOG_VARIANCE_MAX)

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        return super().latent_axes() | {"log_variance": 0}

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, and the posterior variances start again."""
        super().replace_latents(index_N, direction_ND, alive_F)
        self.log_variance[index_N] = self._initial_log_variance

    @torch.no_grad()
    def calibrate(self, x_BD: Tensor) -> None:
        """As the base, and measure KL and ELBO, on held-out scaled activations [B, D]."""
        super().calibrate(x_BD)
        self._diagnostics = self._measure(x_BD)

    def metrics(self) -> dict[str, float]:
        """``kl_nats``, ``elbo_nats`` (both per token), ``collapsed_fraction`` and ``posterior_std`` at calibration."""
        return dict(self._diagnostics)

    def _measure(self, x_BD: Tensor) -> dict[str, float]:
        if self.config.legacy_seed:
            return self.legacy_metrics(x_BD)
        squares_F = torch.zeros(self.config.d_sae, dtype=torch.float64, device=x_BD.device)
        squared_error = kl_nats = 0.0
        for chunk_BD in row_chunks(x_BD, self.config.d_sae):
            mu_BF = self.posterior_mean(chunk_BD)
            squares_F += mu_BF.square().sum(0, dtype=torch.float64)
            kl_nats += float(self.divergence(mu_BF)[0]) * len(chunk_BD) / len(x_BD)
            squared_error += float((self.decode(mu_BF) - chunk_BD).square().sum(dtype=torch.float64))
        log_variance_F = self.log_variance.double()
        variance_F = log_variance_F.exp()
        # of each latent on its own, against its marginal prior
        kl_F = 0.5 * (variance_F + squares_F / len(x_BD) - 1 - log_variance_F)
        observation_variance = self.config.kl_coefficient / 2  # kappa = 2 tau² beta at beta = 1
        expected_error = squared_error / len(x_BD) + float(variance_F.sum())
        noise_nats = 0.5 * self.config.d_in * math.log(2 * math.pi * observation_variance)
        return {
            "kl_nats": kl_nats,
            "elbo_nats": -(expected_error / (2 * observation_variance) + noise_nats + kl_nats),
            "collapsed_fraction": float((kl_F < COLLAPSED_NATS).double().mean()),
            "posterior_std": float(variance_F.sqrt().mean()),
        }
