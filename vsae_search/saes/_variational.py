"""What the sparse variational autoencoders share: objective, KL warm-up, dead latents, diagnostics.

Shapes: B batch, D d_in, F d_sae, N latents that are dead or replaced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vsae_search.saes._revives import RevivesDead, RevivesDeadConfig
from vsae_search.saes._threshold import row_chunks
from vsae_search.saes.base import Loss, SaeConfig

if TYPE_CHECKING:
    from vsae_search.saes._posterior import Moments

LOG_VARIANCE_MIN, LOG_VARIANCE_MAX = -8.0, 3.0
COLLAPSED_NATS = 0.01
"""A latent whose posterior is closer than this to a dense prior, on average over tokens, carries nothing."""
_COLLAPSED_PER_ALPHA = 0.2


def sparse_collapse_threshold(alpha: float) -> float:
    """As ``COLLAPSED_NATS``, for a latent that is on for a share ``alpha`` of tokens: at most a fifth of ``alpha``.

    A latent that is on that rarely has a divergence of a few ``alpha`` nats; 0.01 would call healthy ones collapsed.
    """
    return min(COLLAPSED_NATS, _COLLAPSED_PER_ALPHA * alpha)


class VariationalConfig(RevivesDeadConfig):
    """Hyper-parameters that every sparse variational architecture has."""

    observation_variance: float = Field(
        default=0.1,
        gt=0,
        description="Variance tau^2 of a dimension of the activation given the latents. The KL divergence (nats per "
        "token) is weighted by 2 tau^2 against the sum of squared errors.",
    )
    learn_sigma: bool = Field(
        default=True, description="Learn one posterior standard deviation per latent; otherwise keep the optimal start."
    )
    kl_warmup_fraction: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of training over which the KL divergence grows to full weight (in place of "
        "penalty_warmup_fraction).",
    )
    free_bits: float = Field(
        default=0.0,
        ge=0,
        description="A latent pays for at least this many nats (mean over the batch), so that it gains nothing by "
        "carrying less.",
    )


class SparsePriorConfig(VariationalConfig):
    """Hyper-parameters of a prior under which a latent is exactly 0 with probability ``1 - alpha``."""

    prior_l0: float = Field(
        default=32.0,
        gt=0,
        description="Number of latents that fire under the prior: alpha = prior_l0 / d_sae. The L0 of the code follows "
        "it and observation_variance.",
    )
    prior_scale: float = Field(
        default=1.0,
        gt=0,
        description="Factor c of the variance of the prior of a firing latent, c d_in / prior_l0.",
    )

    @model_validator(mode="after")
    def _prior_is_sparse(self) -> Self:
        if self.prior_l0 >= self.d_sae:
            raise ValueError(f"prior_l0 = {self.prior_l0:g} is not less than d_sae = {self.d_sae}")
        return self

    @property
    def alpha(self) -> float:
        """Prior probability that a latent fires."""
        return self.prior_l0 / self.d_sae

    @property
    def prior_variance(self) -> float:
        """``s²``: rows of norm ``√d_in`` made of ``prior_l0`` unit directions have squared amplitudes of this size."""
        return self.prior_scale * self.d_in / self.prior_l0


class VariationalSae(RevivesDead):
    """``L = E_q‖x - xhat‖² + κ KL(q(z|x) ‖ p(z))`` per token, ``κ = 2τ²``, ``‖w_i‖ = 1``, nothing sampled.

    This is ``2τ²`` times the negative evidence lower bound with observation noise ``N(0, τ²)``. The decoder is linear
    and the latents are independent under q, so ``E_q‖x - xhat‖² = ‖x - b_dec - E[z] W_dec‖² + Σ Var[z_i]``. The noise
    of unit rows has the same size whatever their direction: the variance term costs no matrix product.

    A subclass gives the posterior, the probability that a latent is on, and the deterministic code.

    Attributes:
        log_variance: ``log σ²`` of every latent [F], the same for all inputs.
    """

    config: VariationalConfig
    log_variance: nn.Parameter
    Config: ClassVar[type[SaeConfig]] = VariationalConfig

    def build(self) -> None:
        """Add the posterior log-variances [F], at their optimum for a latent that is on."""
        start = min(max(math.log(self.optimal_variance()), LOG_VARIANCE_MIN), LOG_VARIANCE_MAX)
        self._initial_log_variance = start
        self.log_variance = nn.Parameter(torch.full((self.config.d_sae,), start), requires_grad=self.config.learn_sigma)
        self._diagnostics: dict[str, float] = {}

    # -- to be implemented by an architecture ---------------------------------------------------------------------

    def prior_precision(self) -> float:
        """``1/s²`` of the prior where a latent is on; 0 for a prior without curvature there."""
        raise NotImplementedError

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of ``q(z|x)``, and which latents [F] (bool) the deterministic code of some token lets fire."""
        raise NotImplementedError

    def presence(self, x_BD: Tensor) -> Tensor:
        """``q(z_i ≠ 0 | x)`` [B, F]."""
        raise NotImplementedError

    def collapse_threshold(self) -> float:
        """Mean divergence in nats below which a latent counts as collapsed."""
        return COLLAPSED_NATS

    # -- objective --------------------------------------------------------------------------------------------------

    @property
    def kappa(self) -> float:
        """Weight of the divergence against the sum of squared errors, ``2τ²``."""
        return 2.0 * self.config.observation_variance

    def optimal_variance(self) -> float:
        """``σ²`` that minimises the loss for a latent that is on: ``1 / (1/τ² + 1/s²)``, for every input."""
        return 1.0 / (1.0 / self.config.observation_variance + self.prior_precision())

    def warm_up(self, progress: float) -> float:
        """Factor in [0, 1] of the divergence: linear over the first ``kl_warmup_fraction`` of training, then 1."""
        fraction = self.config.kl_warmup_fraction
        return 1.0 if progress >= fraction else progress / fraction

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Expected sum-MSE (``reconstruction`` by the mean, plus ``variance``), divergence, auxiliary loss."""
        moments, fired_F = self.posterior(x_BD)
        reconstruction, error_BD = self.reconstruction(moments.mean_BF, x_BD)
        return self.combine(
            reconstruction, moments.variance_F, moments.kl_F, self.auxk(x_BD, error_BD), fired_F, progress
        )

    def combine(
        self, reconstruction: Tensor, variance_F: Tensor, kl_F: Tensor, auxk: Tensor, fired_F: Tensor, progress: float
    ) -> Loss:
        """The loss from its parts: free bits, weight and warm-up of the divergence.

        Args:
            reconstruction: Sum-of-squares error of the posterior mean, mean over tokens.
            variance_F: Posterior variances, mean over tokens [F].
            kl_F: Divergences in nats, mean over tokens [F].
            auxk: Weighted auxiliary loss.
            fired_F: Latents that fired [F], bool.
            progress: Share of training that is done.

        Returns:
            The loss with its named parts.
        """
        if self.config.free_bits > 0:
            kl_F = kl_F.clamp_min(self.config.free_bits)
        penalties = {
            "variance": variance_F.sum(),
            "kl": kl_F.sum() * (self.kappa * self.warm_up(progress)),
            "auxk": auxk,
        }
        penalties = {name: term.to(reconstruction.dtype) for name, term in penalties.items()}
        return Loss(reconstruction + sum(penalties.values()), reconstruction, penalties, fired_F)

    def after_step(self) -> None:
        """Unit decoder rows; log-variances clamped as parameters, so that their gradient never dies at the bound."""
        super().after_step()
        self.log_variance.data.clamp_(LOG_VARIANCE_MIN, LOG_VARIANCE_MAX)

    # -- dead latents -----------------------------------------------------------------------------------------------

    def resample_at(self) -> tuple[float, ...]:
        """As the base; never where the auxiliary loss is switched off."""
        return super().resample_at() if self.config.aux_coefficient > 0 else ()

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, and the posterior variances start again."""
        super().replace_latents(index_N, direction_ND, alive_F)
        self.log_variance[index_N] = self._initial_log_variance

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        return super().latent_axes() | {"log_variance": 0}

    # -- diagnostics ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, x_BD: Tensor) -> None:
        """Measure divergence, evidence bound and expected L0 on held-out scaled activations [B, D]."""
        self._diagnostics = self._measure(x_BD)

    def metrics(self) -> dict[str, float]:
        """Diagnostics of the last calibration.

        ``kl_nats`` and ``elbo_nats`` per token; ``expected_l0``, the mean number of latents that are not 0 under the
        posterior; ``collapsed_fraction``, the share of latents whose posterior stays at the prior; ``posterior_std``,
        the mean ``σ``. Empty before the first calibration.
        """
        return dict(self._diagnostics)

    def _measure(self, x_BD: Tensor) -> dict[str, float]:
        kl_F = torch.zeros(self.config.d_sae, dtype=torch.float64, device=x_BD.device)
        expected_error = support = 0.0
        for chunk_BD in row_chunks(x_BD, self.config.d_sae):
            moments, _ = self.posterior(chunk_BD)
            share = len(chunk_BD) / len(x_BD)
            kl_F += moments.kl_F.double() * share
            error_BD = self.decode(moments.mean_BF) - chunk_BD
            squared_error = float(error_BD.square().sum(dtype=torch.float64)) / len(chunk_BD)
            expected_error += share * (squared_error + float(moments.variance_F.double().sum()))
            support += share * float(self.presence(chunk_BD).sum(dtype=torch.float64)) / len(chunk_BD)
        variance = self.config.observation_variance
        kl_nats = float(kl_F.sum())
        noise_nats = 0.5 * self.config.d_in * math.log(2 * math.pi * variance)
        return {
            "kl_nats": kl_nats,
            "elbo_nats": -(expected_error / (2 * variance) + noise_nats + kl_nats),
            "expected_l0": support,
            "collapsed_fraction": float((kl_F < self.collapse_threshold()).double().mean()),
            "posterior_std": float((0.5 * self.log_variance.double()).exp().mean()),
        }


class SparsePriorSae(VariationalSae):
    """A variational autoencoder whose latents are exactly 0 under the prior, but for a share ``alpha``."""

    Config: ClassVar[type[SaeConfig]] = SparsePriorConfig
    config: SparsePriorConfig

    def prior_precision(self) -> float:
        """``1/s²``."""
        return 1.0 / self.config.prior_variance

    def collapse_threshold(self) -> float:
        """A fifth of ``alpha``, or 0.01 nats.

        A latent that is never on is ``alpha`` nats away from the prior and counts as dead; a collapsed one copies the
        prior on every token.
        """
        return sparse_collapse_threshold(self.config.alpha)

    def initial_presence(self) -> float:
        """Share of tokens on which a latent is to be on at the start: ``max(alpha, 0.1)``, so that it can learn."""
        return max(self.config.alpha, 0.1)
