"""Variational autoencoder with a factorised Gaussian posterior and a correlated Gaussian prior.

Shapes: B batch, D d_in, F d_sae, R rank, N replaced latents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from vsae_search.errors import UserInputError
from vsae_search.saes._covariance import (
    MAX_SHARED_VARIANCE,
    BlockPrecision,
    LowRankPrecision,
    Precision,
    limit_factors_,
    mean_gaussian_kl,
)
from vsae_search.saes._init import random_directions_
from vsae_search.saes._legacy_seed import MAX_DENSE_LATENTS, dense_prior, divergence_of_batch_means
from vsae_search.saes._posterior import at_least_float32
from vsae_search.saes._variational import LOG_VARIANCE_MAX, LOG_VARIANCE_MIN
from vsae_search.saes.registry import register
from vsae_search.saes.vsae_iso import VsaeIso, VsaeIsoConfig

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


class VsaeMultiConfig(VsaeIsoConfig):
    """Hyper-parameters of :class:`VsaeMulti`."""

    covariance: Literal["low_rank", "block"] = Field(
        default="low_rank",
        description="Prior covariance: shared factors plus independent parts (low_rank), or equal correlations inside "
        "consecutive blocks of latents (block; which latents share a block is arbitrary until they are trained).",
    )
    rank: int = Field(default=8, gt=0, description="Number of shared factors (low_rank).")
    shared_variance: float = Field(
        default=0.1,
        ge=0,
        le=MAX_SHARED_VARIANCE,
        description="Share of a latent's prior variance that comes from shared factors at the start (for ever, without "
        "learn_covariance).",
    )
    learn_covariance: bool = Field(
        default=True, description="Learn the shared factors with the weights, by the same objective (low_rank)."
    )
    block_size: int = Field(default=4, ge=2, description="Latents in a block (block).")
    rho: float = Field(
        default=0.5,
        gt=-1,
        lt=1,
        description="Prior correlation of two latents in a block (block); with legacy_seed, of every two latents.",
    )

    @model_validator(mode="after")
    def _covariance_is_proper(self) -> Self:
        if self.legacy_seed:
            if self.d_sae > MAX_DENSE_LATENTS:
                raise ValueError(f"legacy_seed inverts a dense matrix: d_sae is at most {MAX_DENSE_LATENTS}")
            if self.rho * (self.d_sae - 1) <= -1:
                raise ValueError(f"rho = {self.rho:g} is not above -1 / (d_sae - 1)")
        elif self.covariance == "block" and self.rho * (self.block_size - 1) <= -1:
            raise ValueError(f"rho = {self.rho:g} is not above -1 / (block_size - 1)")
        elif self.covariance == "low_rank" and self.learn_covariance and self.shared_variance == 0:
            raise ValueError("shared_variance = 0 cannot be learned away from; set learn_covariance: false")
        return self


@register("vsae_multi")
class VsaeMulti(VsaeIso):
    """``q(z|x) = N(μ, diag σ²)`` as in ``vsae_iso``, prior ``N(0, Σ)`` with unit variances and correlations.

    ``Σ`` is block-diagonal with one correlation inside blocks, or ``diag(D) + U Uᵀ`` with ``D_i = 1 - ‖U_i‖²``. The
    divergence is that of each token, exact, in O(B F) or O(B F R + F R²); no F x F matrix is formed. The best ``σ_i²``
    is ``κ / (2 + κ (Σ⁻¹)_ii)`` for every input, so what is left is ridge regression with ``μᵀ Σ⁻¹ μ`` for ``‖μ‖²``.

    Attributes:
        factors: ``U`` [F, R]; only with ``covariance: low_rank``.
    """

    Config: ClassVar[type[SaeConfig]] = VsaeMultiConfig
    config: VsaeMultiConfig
    factors: nn.Parameter

    def build(self) -> None:
        """As ``vsae_iso``, and the shared factors [F, R]."""
        self._dense: tuple[Tensor, Tensor] | None = None
        if self._has_factors:
            self.factors = nn.Parameter(
                torch.zeros(self.config.d_sae, self.config.rank), requires_grad=self.config.learn_covariance
            )
        super().build()

    @property
    def _has_factors(self) -> bool:
        return self.config.covariance == "low_rank" and not self.config.legacy_seed

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """As the base, factors in random directions, and posterior variances at their optimum under this prior."""
        super().reset_parameters(generator)
        if self.config.legacy_seed:
            return
        if self._has_factors:
            random_directions_(self.factors, math.sqrt(self.config.shared_variance), generator)
        if self.config.initial_log_variance is None:
            self.log_variance.copy_(self._optimal_log_variance())

    def _optimal_log_variance(self) -> Tensor:
        kappa = self.config.kl_coefficient
        return (kappa / (2.0 + kappa * self.prior().diagonal_F)).log().clamp(LOG_VARIANCE_MIN, LOG_VARIANCE_MAX)

    def prior(self) -> Precision:
        """Inverse prior covariance, in float32 or better."""
        if self._has_factors:
            return LowRankPrecision(self.factors)
        like = at_least_float32(self.log_variance.detach())
        return BlockPrecision(self.config.d_sae, self.config.block_size, self.config.rho, like)

    def divergence(self, mu_BF: Tensor) -> tuple[Tensor, Tensor]:
        """``KL(q ‖ p)`` in nats, mean over tokens, and which latents [F] (bool) fired on some token."""
        kl_nats, square_F = mean_gaussian_kl(mu_BF, self.log_variance, self.prior())
        return kl_nats.to(mu_BF.dtype), square_F > 0

    def legacy_divergence(self, mu_BF: Tensor, log_variance_BF: Tensor) -> Tensor:
        """Divergence of the batch means, under one correlation ``rho`` of all latents."""
        if self._dense is None or self._dense[0].device != mu_BF.device or self._dense[0].dtype != mu_BF.dtype:
            self._dense = dense_prior(self.config.d_sae, self.config.rho, mu_BF)
        return divergence_of_batch_means(mu_BF, log_variance_BF, *self._dense)

    @torch.no_grad()
    def assign_factors(self, factors_FR: Tensor) -> None:
        """Give the shared factors from outside, such as those of a known correlation matrix.

        Args:
            factors_FR: ``U`` [F, R]; rows of squared norm above 0.99 are shrunk to it. With ``learn_covariance`` it is
                where learning goes on from.

        Raises:
            UserInputError: The architecture has no factors, or of another shape.
        """
        if not self._has_factors or factors_FR.shape != self.factors.shape:
            raise UserInputError(
                f"{self.name} cannot take factors of shape {tuple(factors_FR.shape)}",
                f"set covariance: low_rank; the shape is (d_sae, rank) = ({self.config.d_sae}, {self.config.rank})",
            )
        self.factors.copy_(factors_FR)
        limit_factors_(self.factors)

    def after_step(self) -> None:
        """As ``vsae_iso``; factors leave every latent at least a hundredth of its variance."""
        super().after_step()
        if self._has_factors and self.config.learn_covariance:
            limit_factors_(self.factors)

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As ``vsae_iso``, and the latents become independent of all others under the prior."""
        super().replace_latents(index_N, direction_ND, alive_F)
        if self._has_factors:
            self.factors[index_N] = 0.0

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        return super().latent_axes() | ({"factors": 0} if self._has_factors else {})
