"""Sparse posteriors in closed form: mean, variance and KL divergence from the prior, with hand-written gradients.

Shapes: B batch, b rows of a block, F d_sae.

Every latent is independent of the others, so each function maps pre-activations [B, F] and a few numbers per latent to
the posterior mean [B, F] and to the variance and divergence of each latent, averaged over tokens [F]. Nothing is
sampled. Autograd would keep some twenty intermediate arrays of full size per step; the gradients below keep only their
inputs, and on a CPU the intermediate values of a block of rows stay in its cache. Pre-activations of a half-precision
type are computed with in float32, since a divergence is a difference of large numbers.
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
_BLOCK_ELEMENTS = 1 << 15


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


def _blocks(x_BF: Tensor) -> list[slice]:
    """Slices of rows that are worked on together: all of them on an accelerator, a cache full on a CPU."""
    size = max(1, _BLOCK_ELEMENTS // x_BF.shape[1]) if x_BF.device.type == "cpu" else len(x_BF)
    return [slice(start, start + size) for start in range(0, len(x_BF), size)]


class _SpikeSlab(torch.autograd.Function):
    """See :func:`spike_slab`."""

    @staticmethod
    def forward(
        ctx: Any, mu_BF: Tensor, logit_BF: Tensor, log_variance_F: Tensor, alpha: float, mean: float, variance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        offset_F = normal_kl_offset(log_variance_F, variance)
        mean_BF = torch.empty_like(mu_BF)
        gamma_F, spread_F, kl_F = (torch.zeros_like(log_variance_F) for _ in range(3))
        for rows in _blocks(mu_BF):
            mu_bF, logit_bF = mu_BF[rows], logit_BF[rows]
            gamma_bF = logit_bF.sigmoid()
            mean_bF = torch.mul(gamma_bF, mu_bF, out=mean_BF[rows])
            spread_F += (mu_bF - mean_bF).mul_(mean_bF).sum(0)  # γ(1 - γ)μ² = E[z](μ - E[z])
            gamma_F += gamma_bF.sum(0)
            # γ log γ + (1 - γ) log(1 - γ) = γ logit - softplus(logit): no logarithm of a number that may be 0
            kl_bF = _slab_log_odds(mu_bF, logit_bF, offset_F, alpha, mean, variance).mul_(gamma_bF)
            kl_F += kl_bF.sub_(torch.nn.functional.softplus(logit_bF)).sum(0)
        ctx.save_for_backward(mu_BF, logit_BF, gamma_F, log_variance_F, offset_F)
        ctx.prior = (alpha, mean, variance)
        num_rows = len(mu_BF)
        variance_F = (log_variance_F.exp() * gamma_F + spread_F) / num_rows
        return mean_BF, variance_F, kl_F / num_rows - math.log1p(-alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu_BF, logit_BF, gamma_F, log_variance_F, offset_F = ctx.saved_tensors
        alpha, mean, variance = ctx.prior
        dvar_F, dkl_F = grads[1] / len(mu_BF), grads[2] / len(mu_BF)
        slab_variance_F = log_variance_F.exp()
        dmu_BF, dlogit_BF = torch.empty_like(mu_BF), torch.empty_like(mu_BF)
        for rows in _blocks(mu_BF):
            mu_bF, logit_bF, dmean_bF = mu_BF[rows], logit_BF[rows], grads[0][rows]
            gamma_bF = logit_bF.sigmoid()
            closed_bF = 1.0 - gamma_bF
            # dE[z] = μ, dVar = σ² + (1 - 2γ)μ², dKL = KL_slab + log-odds of γ against α; times γ' = γ(1 - γ)
            dlogit_bF = torch.sub(closed_bF, gamma_bF, out=dlogit_BF[rows]).mul_(mu_bF).mul_(mu_bF)
            dlogit_bF.add_(slab_variance_F).mul_(dvar_F).addcmul_(dmean_bF, mu_bF)
            dlogit_bF.addcmul_(_slab_log_odds(mu_bF, logit_bF, offset_F, alpha, mean, variance), dkl_F)
            dlogit_bF.mul_(gamma_bF).mul_(closed_bF)
            dmu_bF = torch.mul(closed_bF, mu_bF, out=dmu_BF[rows]).mul_(2.0 * dvar_F).add_(dmean_bF)
            dmu_bF.addcmul_(mu_bF - mean, dkl_F / variance).mul_(gamma_bF)
        dlog_variance_F = gamma_F * (dvar_F * slab_variance_F + dkl_F * (0.5 * (slab_variance_F / variance - 1.0)))
        return dmu_BF, dlogit_BF, dlog_variance_F, None, None, None


def _slab_log_odds(
    mu_bF: Tensor, logit_bF: Tensor, offset_F: Tensor, alpha: float, mean: float, variance: float
) -> Tensor:
    """``KL(N(μ, σ²) ‖ N(m, s²)) + logit γ - logit α`` of a block of rows [b, F]."""
    prior_logit = math.log(alpha) - math.log1p(-alpha)
    squares_bF = (mu_bF - mean).square_() if mean else mu_bF.square()
    return squares_bF.mul_(0.5 / variance).add_(logit_bF).add_(offset_F - prior_logit)


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
        # weight of Φ in the divergence: E[(u - m)²; u > 0] = m1 (μ - 2m) + (σ² + m²)Φ
        on_F = 0.5 * ((sigma_F.square() + mean**2) / variance - 1.0 - log_variance_F + math.log(variance))
        m1_BF = torch.empty_like(mu_BF)
        variance_F, kl_F = torch.zeros_like(sigma_F), torch.zeros_like(sigma_F)
        for rows in _blocks(mu_BF):
            mu_bF, a_bF, log_tail_bF, tail_bF, Phi_bF, phi_bF = _normal_parts(mu_BF[rows], sigma_F)
            m1_bF = torch.mul(mu_bF, Phi_bF, out=m1_BF[rows]).addcmul_(phi_bF, sigma_F)
            kl_bF = log_tail_bF.sub_(_log_prior_tail(mean, variance)).mul_(tail_bF).addcmul_(Phi_bF, on_F)
            kl_bF.addcmul_(m1_bF, mu_bF - 2.0 * mean, value=0.5 / variance)
            kl_F += kl_bF.addcmul_(a_bF, phi_bF, value=0.5).sum(0)
            # Var = σ²Φ + m1 (μΦ(-a) - σφ): for a >> 0 this does not subtract m1² from a second moment of its size
            variance_bF = tail_bF.mul_(mu_bF).addcmul_(phi_bF, sigma_F, value=-1.0).mul_(m1_bF)
            variance_F += variance_bF.addcmul_(Phi_bF, sigma_F.square()).sum(0)
        ctx.save_for_backward(mu_BF, sigma_F, log_variance_F, m1_BF)
        ctx.prior = (mean, variance)
        return m1_BF, variance_F / len(mu_BF), kl_F / len(mu_BF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu_BF, sigma_F, log_variance_F, m1_BF = ctx.saved_tensors
        mean, variance = ctx.prior
        dvar_F, dkl_F = grads[1] / len(mu_BF), grads[2] / len(mu_BF)
        # what the probability mass φ that crosses 0 pays: log-ratio of posterior to prior density, off against on
        shift_F = 0.5 * (math.log(variance) - log_variance_F + mean**2 / variance) - 1.0
        shift_F += _log_prior_tail(mean, variance)
        dmu_BF, dlog_sigma_F = torch.empty_like(mu_BF), torch.zeros_like(sigma_F)
        for rows in _blocks(mu_BF):
            m1_bF, dmean_bF = m1_BF[rows], grads[0][rows]
            _, a_bF, log_tail_bF, tail_bF, Phi_bF, phi_bF = _normal_parts(mu_BF[rows], sigma_F)
            toll_bF = log_tail_bF.neg_().addcmul_(a_bF, a_bF, value=-0.5).add_(shift_F).mul_(phi_bF)
            # dE = Φ, dVar = 2 m1 Φ(-a), dKL = toll/σ + (m1 - mΦ)/s²
            dm1_bF = dmean_bF - dkl_F * (mean / variance)
            dmu_bF = torch.mul(Phi_bF, dm1_bF, out=dmu_BF[rows]).addcmul_(toll_bF, dkl_F / sigma_F)
            dmu_bF.addcmul_(m1_bF, tail_bF.mul_(2.0 * dvar_F).add_(dkl_F / variance))
            # by log σ: dE = σφ, dVar = 2σ(σΦ - m1 φ), dKL = -a toll - Φ + (σ²Φ - mσφ)/s²
            dlog_sigma_F += (dm1_bF.addcmul_(m1_bF, dvar_F, value=-2.0)).mul_(phi_bF).sum(0) * sigma_F
            dlog_sigma_F += Phi_bF.sum(0) * (sigma_F.square() * (2.0 * dvar_F + dkl_F / variance) - dkl_F)
            dlog_sigma_F -= toll_bF.mul_(a_bF).sum(0) * dkl_F
        return dmu_BF, 0.5 * dlog_sigma_F, None, None


def _normal_parts(mu_bF: Tensor, sigma_F: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``μ``, ``a = μ/σ``, ``log Φ(-a)``, ``Φ(-a)``, ``Φ(a)`` and ``φ(a)`` of a block of rows, each [b, F].

    ``a`` is cut off at -12, where the latent is off for certain (with ``μ``), and at 30. Both tails are complementary
    error functions, accurate relative to themselves. Where ``Φ(-a)`` is too small to be represented its logarithm is
    only ever multiplied by a number as small. ``log_ndtr`` gives the same at six times the cost.
    """
    mu_bF = torch.maximum(mu_bF, _A_MIN * sigma_F)
    a_bF = (mu_bF / sigma_F).clamp_(max=_A_MAX)
    tail_bF = (a_bF * (1.0 / _ROOT_2)).erfc_().mul_(0.5)
    Phi_bF = (a_bF * (-1.0 / _ROOT_2)).erfc_().mul_(0.5)
    phi_bF = a_bF.square().mul_(-0.5).exp_().mul_(1.0 / _ROOT_2_PI)
    log_tail_bF = tail_bF.clamp_min(torch.finfo(tail_bF.dtype).tiny).log_()
    return mu_bF, a_bF, log_tail_bF, tail_bF, Phi_bF, phi_bF


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
        folded_F = torch.zeros_like(sigma_F)
        for rows in _blocks(mu_BF):
            erf_bF, phi_bF = _FoldedMean.parts(mu_BF[rows], sigma_F)
            folded_F += erf_bF.mul_(mu_BF[rows]).addcmul_(phi_bF, 2.0 * sigma_F).sum(0)
        ctx.save_for_backward(mu_BF, sigma_F)
        return folded_F / len(mu_BF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        mu_BF, sigma_F = ctx.saved_tensors
        dfolded_F = grads[0] / len(mu_BF)
        dmu_BF, phi_F = torch.empty_like(mu_BF), torch.zeros_like(sigma_F)
        for rows in _blocks(mu_BF):
            erf_bF, phi_bF = _FoldedMean.parts(mu_BF[rows], sigma_F)
            torch.mul(erf_bF, dfolded_F, out=dmu_BF[rows])
            phi_F += phi_bF.sum(0)
        return dmu_BF, 2.0 * phi_F * dfolded_F

    @staticmethod
    def parts(mu_bF: Tensor, sigma_F: Tensor) -> tuple[Tensor, Tensor]:
        """``erf(a/√2)`` and ``φ(a)`` of ``a = μ/σ``, of a block of rows [b, F]."""
        a_bF = mu_bF / sigma_F
        phi_bF = a_bF.square().mul_(-0.5).exp_().mul_(1.0 / _ROOT_2_PI)
        return a_bF.mul_(1.0 / _ROOT_2).erf_(), phi_bF


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
