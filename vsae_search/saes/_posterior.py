"""Sparse posteriors in closed form: mean, variance and KL divergence from the prior, with hand-written gradients.

Shapes: B batch, F d_sae.

Every latent is independent of the others, so each function maps pre-activations [B, F] and a few numbers per latent to
the posterior mean [B, F] and to the variance and divergence of each latent, averaged over tokens [F]. Nothing is
sampled. Autograd would keep some twenty intermediate arrays of full size per step; the gradients below need two or
three. Pre-activations of a half-precision type are computed with in float32, since a divergence is a difference of
large numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROOT_2, _ROOT_2_PI = math.sqrt(2.0), math.sqrt(2 * math.pi)
_LOG_2_PI_E = math.log(2 * math.pi) + 1.0
_A_MIN, _A_MAX = -12.0, 30.0


class Moments(NamedTuple):
    """What the loss needs to know about a posterior.

    Attributes:
        mean_BF: ``E_q[z]`` [B, F], in the type of the pre-activations.
        variance_F: ``Var_q[z]``, mean over tokens [F].
        kl_F: ``KL(q ‖ p)`` in nats, mean over tokens [F].
    """

    mean_BF: Tensor
    variance_F: Tensor
    kl_F: Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def normal_kl_offset(log_variance_F: Tensor, prior_variance: float) -> Tensor:
    """``KL(N(m, σ²) ‖ N(m, s²))`` [F]; a mean off by δ adds ``δ² / 2s²``."""
    ratio_F = log_variance_F.exp() / prior_variance
    return 0.5 * (ratio_F - 1.0 - log_variance_F + math.log(prior_variance))


class _SpikeSlab(torch.autograd.Function):
    """See :func:`spike_slab`."""

    @staticmethod
    def forward(
        ctx: Any, mu_BF: Tensor, logit_BF: Tensor, log_variance_F: Tensor, alpha: float, mean: float, variance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gamma_BF = logit_BF.sigmoid()
        mean_BF = gamma_BF * mu_BF
        gamma_F = gamma_BF.mean(0)
        offset_F = normal_kl_offset(log_variance_F, variance)
        # γ(1 - γ)μ² = E[z](μ - E[z])
        variance_F = log_variance_F.exp() * gamma_F + (mean_BF * (mu_BF - mean_BF)).mean(0)
        # γ log γ + (1 - γ) log(1 - γ) = γ logit - softplus(logit): no logarithm of a number that may be 0
        inner_BF = _slab_log_odds(mu_BF, logit_BF, offset_F, alpha, mean, variance).mul_(gamma_BF)
        kl_F = inner_BF.sub_(torch.nn.functional.softplus(logit_BF)).mean(0) - math.log1p(-alpha)
        ctx.save_for_backward(mu_BF, logit_BF, gamma_BF, gamma_F, log_variance_F, offset_F)
        ctx.prior = (alpha, mean, variance)
        return mean_BF, variance_F, kl_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu_BF, logit_BF, gamma_BF, gamma_F, log_variance_F, offset_F = ctx.saved_tensors
        alpha, mean, variance = ctx.prior
        dmean_BF, dvar_F, dkl_F = grads[0], grads[1] / len(mu_BF), grads[2] / len(mu_BF)
        closed_BF = 1.0 - gamma_BF
        slab_variance_F = log_variance_F.exp()
        # dE[z] = μ, dVar = σ² + (1 - 2γ)μ², dKL = KL_slab + log-odds of γ against α; times γ' = γ(1 - γ)
        dlogit_BF = (closed_BF - gamma_BF).mul_(mu_BF).mul_(mu_BF).add_(slab_variance_F).mul_(dvar_F)
        dlogit_BF.addcmul_(dmean_BF, mu_BF)
        dlogit_BF.addcmul_(_slab_log_odds(mu_BF, logit_BF, offset_F, alpha, mean, variance), dkl_F)
        dlogit_BF.mul_(gamma_BF).mul_(closed_BF)
        dmu_BF = closed_BF.mul_(mu_BF).mul_(2.0 * dvar_F).add_(dmean_BF)
        dmu_BF.addcmul_(mu_BF - mean, dkl_F / variance).mul_(gamma_BF)
        kl_slope_F = 0.5 * (slab_variance_F / variance - 1.0)
        dlog_variance_F = gamma_F * (grads[1] * slab_variance_F + grads[2] * kl_slope_F)
        return dmu_BF, dlogit_BF, dlog_variance_F, None, None, None


def _slab_log_odds(
    mu_BF: Tensor, logit_BF: Tensor, offset_F: Tensor, alpha: float, mean: float, variance: float
) -> Tensor:
    """``KL(N(μ, σ²) ‖ N(m, s²)) + logit γ - logit α`` [B, F]."""
    prior_logit = math.log(alpha) - math.log1p(-alpha)
    squares_BF = (mu_BF - mean).square_() if mean else mu_BF.square()
    return squares_BF.mul_(0.5 / variance).add_(logit_BF).add_(offset_F - prior_logit)


def spike_slab(
    mu_BF: Tensor, logit_BF: Tensor, log_variance_F: Tensor, *, alpha: float, prior_mean: float, prior_variance: float
) -> Moments:
    """``q = γ N(μ, σ²) + (1 - γ) δ₀`` against ``p = α N(m, s²) + (1 - α) δ₀``.

    ``E[z] = γμ``; ``Var[z] = γ(μ² + σ²) - γ²μ²``; ``KL = γ[KL(N(μ, σ²) ‖ N(m, s²)) + log(γ/α)] + (1 - γ) log((1 - γ) /
    (1 - α))``: the divergence of two mixtures whose parts do not overlap is exactly the sum of these two.

    Args:
        mu_BF: Means of the slab [B, F].
        logit_BF: ``logit γ`` [B, F].
        log_variance_F: ``log σ²`` [F].
        alpha: Prior probability of the slab, in (0, 1).
        prior_mean: ``m``.
        prior_variance: ``s²``.

    Returns:
        Mean, variance and divergence.
    """
    mean_BF, variance_F, kl_F = _SpikeSlab.apply(  # type: ignore[no-untyped-call]
        at_least_float32(mu_BF),
        at_least_float32(logit_BF),
        at_least_float32(log_variance_F),
        alpha,
        prior_mean,
        prior_variance,
    )
    return Moments(mean_BF.to(mu_BF.dtype), variance_F, kl_F)


class _Rectified(torch.autograd.Function):
    """See :func:`rectified`; ``a = μ/σ``, ``tail = Φ(-a)``, ``m1 = E[z]``."""

    @staticmethod
    def forward(
        ctx: Any, mu_BF: Tensor, log_variance_F: Tensor, mean: float, variance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        sigma_F = (0.5 * log_variance_F).exp()
        mu_BF = torch.maximum(mu_BF, _A_MIN * sigma_F)  # further out the latent is off for certain
        a_BF, log_tail_BF, tail_BF, Phi_BF, phi_BF = _normal_parts(mu_BF, sigma_F)
        m1_BF = (mu_BF * Phi_BF).addcmul_(phi_BF, sigma_F)
        # Var = σ²Φ + m1 (μΦ(-a) - σφ): for a >> 0 this does not subtract m1² from a second moment of the same size
        variance_BF = (mu_BF * tail_BF).addcmul_(phi_BF, sigma_F, value=-1.0).mul_(m1_BF)
        variance_F = variance_BF.addcmul_(Phi_BF, sigma_F.square()).mean(0)
        # E[(u - m)²; u > 0] = m1 (μ - 2m) + (σ² + m²)Φ
        Phi_weight_F = 0.5 * ((sigma_F.square() + mean**2) / variance - 1.0 - log_variance_F + math.log(variance))
        kl_BF = log_tail_BF.sub(_log_prior_tail(mean, variance)).mul_(tail_BF)
        kl_BF.addcmul_(m1_BF, mu_BF - 2.0 * mean, value=0.5 / variance)
        kl_F = kl_BF.addcmul_(Phi_BF, Phi_weight_F).addcmul_(a_BF, phi_BF, value=0.5).mean(0)
        ctx.save_for_backward(mu_BF, sigma_F, log_variance_F, m1_BF)
        ctx.prior = (mean, variance)
        return m1_BF, variance_F, kl_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu_BF, sigma_F, log_variance_F, m1_BF = ctx.saved_tensors
        mean, variance = ctx.prior
        dmean_BF, dvar_F, dkl_F = grads[0], grads[1] / len(mu_BF), grads[2] / len(mu_BF)
        a_BF, log_tail_BF, tail_BF, Phi_BF, phi_BF = _normal_parts(mu_BF, sigma_F)
        # what the probability mass φ that crosses 0 pays: log-ratio of posterior to prior density, off against on
        shift_F = 0.5 * (math.log(variance) - log_variance_F + mean**2 / variance) - 1.0
        toll_BF = log_tail_BF.neg_().addcmul_(a_BF, a_BF, value=-0.5)
        toll_BF.add_(shift_F + _log_prior_tail(mean, variance)).mul_(phi_BF)
        # dE = Φ, dVar = 2 m1 Φ(-a), dKL = toll/σ + (m1 - mΦ)/s²
        dmu_BF = (m1_BF * tail_BF).mul_(2.0 * dvar_F).addcmul_(Phi_BF, dmean_BF - dkl_F * (mean / variance))
        dmu_BF.addcmul_(toll_BF, dkl_F / sigma_F).addcmul_(m1_BF, dkl_F / variance)
        # by log σ: dE = σφ, dVar = 2σ(σΦ - m1 φ), dKL = -a toll - Φ + (σ²Φ - mσφ)/s²
        Phi_F = Phi_BF.sum(0)
        dlog_sigma_F = sigma_F * (
            (phi_BF * dmean_BF).sum(0)
            + 2.0 * dvar_F * (sigma_F * Phi_F - (m1_BF * phi_BF).sum(0))
            - dkl_F * (mean / variance) * phi_BF.sum(0)
        )
        dlog_sigma_F += dkl_F * ((sigma_F.square() / variance - 1.0) * Phi_F - (a_BF * toll_BF).sum(0))
        return dmu_BF, 0.5 * dlog_sigma_F, None, None


def _normal_parts(mu_BF: Tensor, sigma_F: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``a = μ/σ`` (at most 30), ``log Φ(-a)``, ``Φ(-a)``, ``Φ(a)`` and ``φ(a)``, each [B, F]; exact in both tails."""
    a_BF = (mu_BF / sigma_F).clamp_(max=_A_MAX)
    log_tail_BF = torch.special.log_ndtr(-a_BF)
    phi_BF = a_BF.square().mul_(-0.5).exp_().mul_(1.0 / _ROOT_2_PI)
    return a_BF, log_tail_BF, log_tail_BF.exp(), torch.expm1(log_tail_BF).neg_(), phi_BF


def _log_prior_tail(mean: float, variance: float) -> float:
    """``log Φ(-m/s)``: log of the prior probability that a rectified latent is 0."""
    return math.log(0.5 * math.erfc(mean / math.sqrt(2.0 * variance)))


def rectified(mu_BF: Tensor, log_variance_F: Tensor, *, prior_mean: float, prior_variance: float) -> Moments:
    """``z = max(0, u)`` with ``u ~ N(μ, σ²)`` under q and ``u ~ N(m, s²)`` under p.

    With ``a = μ/σ``, ``Φ = Φ(a)``, ``φ = φ(a)``, ``M1 = μΦ + σφ`` and ``M2 = (μ² + σ²)Φ + μσφ``: ``E[z] = M1``;
    ``Var[z] = M2 - M1²``; ``KL = Φ(-a) log(Φ(-a) / Φ(-m/s)) + Φ log(s/σ) - (Φ - aφ)/2 + (M2 - 2m M1 + m²Φ) / 2s²``,
    which is never more than the divergence of the two Gaussians.

    Args:
        mu_BF: Means before rectification [B, F].
        log_variance_F: ``log σ²`` [F].
        prior_mean: ``m``.
        prior_variance: ``s²``.

    Returns:
        Mean, variance and divergence.
    """
    mean_BF, variance_F, kl_F = _Rectified.apply(  # type: ignore[no-untyped-call]
        at_least_float32(mu_BF), at_least_float32(log_variance_F), prior_mean, prior_variance
    )
    return Moments(mean_BF.to(mu_BF.dtype), variance_F, kl_F)


class _FoldedMean(torch.autograd.Function):
    """``E|u|``, ``u ~ N(μ, σ²)``, mean over tokens [F]; see :func:`laplace`."""

    @staticmethod
    def forward(ctx: Any, mu_BF: Tensor, sigma_F: Tensor) -> Tensor:
        erf_BF, phi_BF = _FoldedMean.parts(mu_BF, sigma_F)
        ctx.save_for_backward(mu_BF, sigma_F)
        return (mu_BF * erf_BF).addcmul_(phi_BF, 2.0 * sigma_F).mean(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        mu_BF, sigma_F = ctx.saved_tensors
        erf_BF, phi_BF = _FoldedMean.parts(mu_BF, sigma_F)
        return erf_BF.mul_(grads[0] / len(mu_BF)), 2.0 * phi_BF.mean(0) * grads[0]

    @staticmethod
    def parts(mu_BF: Tensor, sigma_F: Tensor) -> tuple[Tensor, Tensor]:
        """``erf(a/√2)`` and ``φ(a)`` of ``a = μ/σ`` [B, F]."""
        a_BF = mu_BF / sigma_F
        phi_BF = a_BF.square().mul_(-0.5).exp_().mul_(1.0 / _ROOT_2_PI)
        return a_BF.mul_(1.0 / _ROOT_2).erf_(), phi_BF


def laplace(mu_BF: Tensor, log_variance_F: Tensor, *, scale: float) -> Moments:
    """``q = N(μ, σ²)`` against ``p = Laplace(0, b)``, whose density is ``exp(-|z|/b) / 2b``.

    ``KL = log 2b - log(2πeσ²)/2 + E|z|/b`` with ``E|z| = σ√(2/π) exp(-μ²/2σ²) + μ erf(μ/σ√2)``, a smooth ``|μ|``.

    Args:
        mu_BF: Posterior means [B, F].
        log_variance_F: ``log σ²`` [F].
        scale: ``b``.

    Returns:
        Mean, variance and divergence.
    """
    log_variance_F = at_least_float32(log_variance_F)
    folded_F: Tensor = _FoldedMean.apply(  # type: ignore[no-untyped-call]
        at_least_float32(mu_BF), (0.5 * log_variance_F).exp()
    )
    kl_F = folded_F / scale + (math.log(2 * scale) - 0.5 * _LOG_2_PI_E) - 0.5 * log_variance_F
    return Moments(mu_BF, log_variance_F.exp(), kl_F)
