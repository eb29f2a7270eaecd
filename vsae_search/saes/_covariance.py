"""Correlated Gaussian priors whose divergence costs no more than the latents: blocks, and low rank plus diagonal.

Shapes: B batch, F d_sae, R rank, N blocks, M latents in a block.

Both have unit marginal variances, so that they differ from an isotropic prior in the correlations and in nothing else.
Nothing of size F x F is ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsae_search.saes._posterior import at_least_float32

MAX_SHARED_VARIANCE = 0.99
"""Largest share of a latent's prior variance that may come from shared factors; the rest keeps the prior proper."""


class Precision(Protocol):
    """Inverse of a prior covariance ``Σ``, in the form in which a divergence needs it."""

    @property
    def diagonal_F(self) -> Tensor:
        """``(Σ⁻¹)_ii`` [F]."""

    @property
    def log_determinant(self) -> Tensor:
        """``log det Σ``, scalar."""

    def quadratic(self, delta_BF: Tensor) -> Tensor:
        """``δᵀ Σ⁻¹ δ`` of each row [B] of deviations from the prior mean [B, F]."""

    def mean_quadratic(self, delta_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of :meth:`quadratic` over rows, and the mean of ``δ_i²`` [F] on the way to it, detached."""


def gaussian_kl(mu_BF: Tensor, log_variance_F: Tensor, prior: Precision) -> Tensor:
    """``KL(N(μ, diag σ²) ‖ N(0, Σ))`` of each token, in nats; in float32 or better.

    ``½ [Σ_i σ_i² (Σ⁻¹)_ii + μᵀ Σ⁻¹ μ - F + log det Σ - Σ_i log σ_i²]``.

    Args:
        mu_BF: Posterior means [B, F].
        log_variance_F: Posterior log-variances ``log σ²`` [F].
        prior: Inverse prior covariance.

    Returns:
        Divergence of each token [B].
    """
    return 0.5 * (prior.quadratic(at_least_float32(mu_BF)) + _spread(log_variance_F, prior))


def mean_gaussian_kl(mu_BF: Tensor, log_variance_F: Tensor, prior: Precision) -> tuple[Tensor, Tensor]:
    """Mean over tokens of :func:`gaussian_kl`, with fewer passes over arrays of the size of the code.

    Args:
        mu_BF: Posterior means [B, F].
        log_variance_F: Posterior log-variances ``log σ²`` [F].
        prior: Inverse prior covariance.

    Returns:
        Mean divergence in nats, and the mean of ``μ_i²`` [F], detached.
    """
    quadratic, square_F = prior.mean_quadratic(at_least_float32(mu_BF))
    return 0.5 * (quadratic + _spread(log_variance_F, prior)), square_F


def _spread(log_variance_F: Tensor, prior: Precision) -> Tensor:
    """What a divergence owes to variances, which are the same for every token."""
    log_variance_F = at_least_float32(log_variance_F)
    return (log_variance_F.exp() * prior.diagonal_F - 1.0 - log_variance_F).sum() + prior.log_determinant


@dataclass(frozen=True)
class BlockPrecision:
    """Consecutive blocks of M latents with correlation ``rho`` inside a block and none across blocks.

    With ``c = 1 + (M - 1) ρ``, per block: ``δᵀ Σ⁻¹ δ = (‖δ‖² - (ρ/c)(1ᵀδ)²) / (1 - ρ)``, ``(Σ⁻¹)_ii = (1 + (M - 2) ρ) /
    ((1 - ρ) c)`` and ``log det Σ = (M - 1) log(1 - ρ) + log c``. Latents after the last whole block are independent.

    Attributes:
        d_sae: Number of latents.
        size: Latents in a block, M.
        rho: Correlation inside a block, in ``(-1 / (M - 1), 1)``.
        like: Any tensor of the device and type to compute in.
    """

    d_sae: int
    size: int
    rho: float
    like: Tensor

    def __post_init__(self) -> None:
        assert self.c > 0, "rho is above -1 / (size - 1)"
        assert self.rho < 1, "rho is below 1"

    @property
    def c(self) -> float:
        """Eigenvalue of a block along ``(1, ..., 1)``; the others are ``1 - ρ``."""
        return 1.0 + (self.size - 1) * self.rho

    @property
    def num_blocks(self) -> int:
        """Number of whole blocks, N."""
        return self.d_sae // self.size

    def _by_latent(self, member: float) -> Tensor:
        value_F = self.like.new_ones(self.d_sae)
        value_F[: self.num_blocks * self.size] = member
        return value_F

    @property
    def diagonal_F(self) -> Tensor:
        """``(Σ⁻¹)_ii`` [F]."""
        return self._by_latent((1.0 + (self.size - 2) * self.rho) / ((1.0 - self.rho) * self.c))

    @property
    def log_determinant(self) -> Tensor:
        """``log det Σ``, scalar."""
        per_block = (self.size - 1) * math.log1p(-self.rho) + math.log(self.c)
        return self.like.new_full((), self.num_blocks * per_block)

    def quadratic(self, delta_BF: Tensor) -> Tensor:
        """``δᵀ Σ⁻¹ δ`` of each row [B]; O(B F)."""
        square_B = delta_BF.square() @ self._by_latent(1.0 / (1.0 - self.rho))
        blocks_BNM = delta_BF[:, : self.num_blocks * self.size].reshape(len(delta_BF), self.num_blocks, self.size)
        shared_B: Tensor = blocks_BNM.sum(2).square().sum(1) * (self.rho / ((1.0 - self.rho) * self.c))
        return square_B - shared_B

    def mean_quadratic(self, delta_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of :meth:`quadratic` over rows, and the mean of ``δ_i²`` [F], detached."""
        square_F = delta_BF.square().mean(0)
        blocks_BNM = delta_BF[:, : self.num_blocks * self.size].reshape(len(delta_BF), self.num_blocks, self.size)
        shared = blocks_BNM.sum(2).square().sum() * (self.rho / ((1.0 - self.rho) * self.c * len(delta_BF)))
        return (square_F * self._by_latent(1.0 / (1.0 - self.rho))).sum() - shared, square_F.detach()


class _WoodburyMean(torch.autograd.Function):
    """``mean_b [Σ_i w_i δ_i² - ‖A δ‖²]`` and the mean of ``δ_i²`` [F], in few passes over ``δ``."""

    @staticmethod
    def forward(ctx: Any, delta_BF: Tensor, weight_F: Tensor, A_RF: Tensor) -> tuple[Tensor, Tensor]:
        shared_BR = delta_BF @ A_RF.T
        square_F = torch.linalg.vector_norm(delta_BF, dim=0).square_().div_(len(delta_BF))
        ctx.save_for_backward(delta_BF, weight_F, A_RF, shared_BR, square_F)
        ctx.mark_non_differentiable(square_F)
        return weight_F @ square_F - shared_BR.square().sum() / len(delta_BF), square_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        delta_BF, weight_F, A_RF, shared_BR, square_F = ctx.saved_tensors
        shared_BR = shared_BR * (grads[0] * (-2.0 / len(delta_BF)))
        ddelta_BF = delta_BF * (weight_F * (grads[0] * (2.0 / len(delta_BF))))
        return ddelta_BF.addmm_(shared_BR, A_RF), square_F * grads[0], shared_BR.T @ delta_BF


class LowRankPrecision:
    """``Σ = diag(D) + U Uᵀ`` with ``D_i = 1 - ‖U_i‖²``, inverted by the Woodbury identity; differentiable in ``U``.

    With ``L Lᵀ = I + Uᵀ D⁻¹ U`` and ``A = L⁻¹ Uᵀ D⁻¹``: ``Σ⁻¹ = D⁻¹ - Aᵀ A``; ``log det Σ = Σ log D_i + 2 Σ log L_rr``.
    Setting it up costs O(F R²), a quadratic form O(B F R).

    Args:
        factors_FR: ``U`` [F, R], every row of squared norm at most 0.99.
    """

    def __init__(self, factors_FR: Tensor) -> None:
        factors_FR = at_least_float32(factors_FR)
        own_F = 1.0 - factors_FR.square().sum(1)
        scaled_FR = factors_FR / own_F[:, None]
        eye_RR = torch.eye(factors_FR.shape[1], dtype=factors_FR.dtype, device=factors_FR.device)
        # the checking form of this function reads an error code back from the device
        lower_RR, _ = torch.linalg.cholesky_ex(torch.addmm(eye_RR, factors_FR.T, scaled_FR))
        self._inverse_own_F: Tensor = 1.0 / own_F
        self._A_RF: Tensor = torch.linalg.solve_triangular(lower_RR, scaled_FR.T, upper=False)
        self._log_determinant: Tensor = own_F.log().sum() + 2.0 * lower_RR.diagonal().log().sum()

    @property
    def diagonal_F(self) -> Tensor:
        """``(Σ⁻¹)_ii`` [F]."""
        return self._inverse_own_F - self._A_RF.square().sum(0)

    @property
    def log_determinant(self) -> Tensor:
        """``log det Σ``, scalar."""
        return self._log_determinant

    def quadratic(self, delta_BF: Tensor) -> Tensor:
        """``δᵀ Σ⁻¹ δ`` of each row [B]."""
        return delta_BF.square() @ self._inverse_own_F - (delta_BF @ self._A_RF.T).square().sum(1)

    def mean_quadratic(self, delta_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of :meth:`quadratic` over rows, and the mean of ``δ_i²`` [F], detached."""
        mean, square_F = _WoodburyMean.apply(  # type: ignore[no-untyped-call]
            delta_BF, self._inverse_own_F, self._A_RF
        )
        return mean, square_F


@torch.no_grad()
def limit_factors_(factors_FR: Tensor) -> None:
    """Shrink rows of ``U`` [F, R] whose squared norm is above 0.99 back to it, in place."""
    norm_F = torch.linalg.vector_norm(factors_FR, dim=1, keepdim=True)
    factors_FR.mul_((math.sqrt(MAX_SHARED_VARIANCE) / norm_F.clamp_min(1e-12)).clamp_(max=1.0))
