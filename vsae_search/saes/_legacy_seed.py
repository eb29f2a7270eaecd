"""The objective of the first published VSAE code (ZachData/SPAR), kept for comparison; ``legacy_seed`` turns it on.

Shapes: B batch, D d_in, F d_sae, N replaced latents.

What it computes, exactly, for every token of a batch:

    μ = ReLU((x - b_dec) W_enc + b_enc)
    log σ² = ReLU((x - b_dec) W_log_variance + b_log_variance), or 0
    z = μ + σ ε, ε ~ N(0, 1), in both cases
    loss = mean_b ‖z W_dec + b_dec - x‖² + kl_coeff KL, ‖w_i‖ = 1

with a divergence that each of its three models forms differently. None of it is a good idea: the noise of variance 1 or
more on F unit rows adds at least F to the reconstruction, and the divergences are a sum over the batch, a divergence
from shifted independent Gaussians, and the divergence of batch means. Codes are compared all the same: evaluation uses
the mean ``μ``, as everywhere.

Its switch ``var_flag`` is called ``learn_sigma`` here:

==========  ===================================  ==============================================
var_flag    with ``legacy_seed``                 without
==========  ===================================  ==============================================
1           ``learn_sigma: true``, a head that   ``learn_sigma: true``, one σ per latent (the
            maps the input to ``log σ² >= 0``    best σ does not depend on the input)
0           ``learn_sigma: false``, σ = 1,       ``learn_sigma: false``, σ fixed at its optimum
            still sampled                        or as given, never sampled
==========  ===================================  ==============================================

Only the objective is reproduced. Weights start, and are trained, as those of every other architecture.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn

from vsae_search.saes._affine import encoder_affine
from vsae_search.saes.base import Loss, SaeConfig, SparseAutoencoder

if TYPE_CHECKING:
    from torch import Tensor

MAX_DENSE_LATENTS = 4096
"""More latents than this are refused where the legacy objective inverts a dense covariance."""


class LegacySeedConfig(SaeConfig):
    """Hyper-parameters of the legacy objective."""

    legacy_seed: bool = Field(
        default=False,
        description="Train with the objective of the first published VSAE code (ZachData/SPAR), for comparison only: "
        "sampled codes and its own divergence. learn_sigma is its var_flag.",
    )
    legacy_kl_coefficient: float = Field(
        default=3e-4, ge=0, description="Weight of the divergence with legacy_seed (its kl_coeff)."
    )


def seeded_noise(like: Tensor, seed: int, progress: float) -> Tensor:
    """Standard normal noise of the shape, type and device of a tensor: a function of the seed and of the step.

    There is no generator to keep: an interrupted training draws the same noise when it goes on.

    Args:
        like: Tensor whose shape, type and device the noise takes.
        seed: Seed of the trial.
        progress: Share of training that is done; different for every step.

    Returns:
        Noise.
    """
    digest = hashlib.blake2b(f"{seed}:{progress!r}".encode(), digest_size=8).digest()
    generator = torch.Generator(device=like.device).manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


class LegacySeedSae(SparseAutoencoder):
    """What an architecture with ``legacy_seed`` inherits: variance head, sampled loss.

    A subclass calls :meth:`build_legacy` at the end of ``build``, and its ``loss`` returns :meth:`legacy_loss` where
    the configuration asks for it.

    Attributes:
        W_log_variance: Weights of the variance head [D, F]; only with ``legacy_seed`` and ``learn_sigma``.
        b_log_variance: Its bias [F].
    """

    config: LegacySeedConfig
    W_log_variance: nn.Parameter
    b_log_variance: nn.Parameter

    @abstractmethod
    def legacy_divergence(self, mu_BF: Tensor, log_variance_BF: Tensor) -> Tensor:
        """The divergence as the first code forms it, before its coefficient; scalar.

        Args:
            mu_BF: Posterior means [B, F].
            log_variance_BF: Posterior log-variances [B, F].
        """

    def build_legacy(self, *, learn_sigma: bool) -> None:
        """With ``legacy_seed``: freeze what the objective does not use, and add the variance head where it is learned.

        Args:
            learn_sigma: Whether there is a variance head.
        """
        self._has_variance_head = self.config.legacy_seed and learn_sigma
        if not self.config.legacy_seed:
            return
        weights = set(SparseAutoencoder.latent_axes(self)) | {"b_dec"}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in weights)
        if self._has_variance_head:
            self.W_log_variance = nn.Parameter(torch.zeros(self.config.d_in, self.config.d_sae))
            self.b_log_variance = nn.Parameter(torch.zeros(self.config.d_sae))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """As the base, and the variance head random: at 0, where its ReLU is flat, it would never move."""
        super().reset_parameters(generator)
        if self._has_variance_head:
            bound = math.sqrt(6.0 / self.config.d_sae)
            self.W_log_variance.uniform_(-bound, bound, generator=generator)
            self.b_log_variance.zero_()

    def legacy_log_variance(self, x_BD: Tensor, mu_BF: Tensor) -> Tensor:
        """``log σ²`` [B, F]: the rectified head, or 0."""
        if not self._has_variance_head:
            return torch.zeros_like(mu_BF)
        return encoder_affine(x_BD, self.W_log_variance, self.b_log_variance, self.b_dec).relu()

    def legacy_loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Loss with a sampled code, and without a warm-up of the divergence.

        Args:
            x_BD: Scaled activations [B, D].
            progress: Share of training that is done; picks the noise, so equal arguments give equal losses.

        Returns:
            The loss; ``reconstruction`` is that of the sample, ``fired_F`` that of the mean.
        """
        mu_BF = self.preactivations(x_BD).relu()
        log_variance_BF = self.legacy_log_variance(x_BD, mu_BF)
        noise_BF = seeded_noise(mu_BF, self.seed, progress)
        reconstruction, _ = self.reconstruction(mu_BF + (0.5 * log_variance_BF).exp() * noise_BF, x_BD)
        kl = self.config.legacy_kl_coefficient * self.legacy_divergence(mu_BF, log_variance_BF)
        return Loss(reconstruction + kl, reconstruction, {"kl": kl}, mu_BF.detach().amax(0) > 0)

    @torch.no_grad()
    def legacy_metrics(self, x_BD: Tensor) -> dict[str, float]:
        """``posterior_std``, the mean ``σ`` on held-out rows [B, D]; an evidence bound would be of no known model."""
        log_variance_BF = self.legacy_log_variance(x_BD, self.preactivations(x_BD))
        return {"posterior_std": float((0.5 * log_variance_BF.double()).exp().mean())}

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, and the variance head of these latents becomes 0."""
        super().replace_latents(index_N, direction_ND, alive_F)
        if self._has_variance_head:
            self.W_log_variance[:, index_N] = 0.0
            self.b_log_variance[index_N] = 0.0

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        head = {"W_log_variance": 1, "b_log_variance": 0} if self._has_variance_head else {}
        return super().latent_axes() | head


def shifted_divergence(mu_BF: Tensor, log_variance_BF: Tensor, prior_mean_F: Tensor | float = 0.0) -> Tensor:
    """``KL(N(μ, σ²) ‖ N(m, 1))`` of each token, summed over latents [B].

    Args:
        mu_BF: Posterior means [B, F].
        log_variance_BF: Posterior log-variances [B, F].
        prior_mean_F: Prior means [F].
    """
    square_BF = (mu_BF - prior_mean_F).square()
    return 0.5 * (square_BF + log_variance_BF.exp() - 1.0 - log_variance_BF).sum(1)


def dense_prior(d_sae: int, rho: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and log-determinant of ``(1 - ρ) I + ρ 1 1ᵀ``, through the dense matrix.

    Args:
        d_sae: Number of latents.
        rho: Correlation of every two latents (its corr_rate).
        like: Tensor of the device and type of the result.

    Returns:
        Precision [F, F] and log-determinant.
    """
    covariance_FF = torch.full((d_sae, d_sae), rho, dtype=torch.float64, device=like.device).fill_diagonal_(1.0)
    log_determinant = torch.linalg.slogdet(covariance_FF).logabsdet
    return torch.linalg.inv(covariance_FF).to(like.dtype), log_determinant.to(like.dtype)


def divergence_of_batch_means(
    mu_BF: Tensor, log_variance_BF: Tensor, precision_FF: Tensor, log_determinant: Tensor
) -> Tensor:
    """Divergence from ``N(0, Σ)`` of the batch means of ``μ``, ``σ²`` and ``log σ²``, cut off below 0.

    Args:
        mu_BF: Posterior means [B, F].
        log_variance_BF: Posterior log-variances [B, F].
        precision_FF: ``Σ⁻¹`` [F, F].
        log_determinant: ``log det Σ``.

    Returns:
        Scalar.
    """
    mean_F, variance_F = mu_BF.mean(0), log_variance_BF.exp().mean(0)
    trace = (precision_FF.diagonal() * variance_F).sum()
    quadratic = mean_F @ precision_FF @ mean_F
    entropy = log_variance_BF.sum(1).mean()
    return (0.5 * (trace + quadratic - mu_BF.shape[1] + log_determinant - entropy)).clamp_min(0.0)
