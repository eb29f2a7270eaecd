"""Closed-form moments and divergences against quadrature, sampling, hand calculation and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from vsae_search.saes import _posterior
from vsae_search.saes._posterior import laplace, normal_kl_offset, rectified, spike_slab

MU = [-2.0, -0.3, 0.0, 0.4, 3.0]
LOG_VARIANCE = [-3.0, -1.0, 0.0, 0.7, 1.5]
POSTERIORS = [
    lambda mu, logit, lv: spike_slab(mu, logit, lv, alpha=0.1, prior_mean=0.7, prior_variance=3.0),
    lambda mu, logit, lv: rectified(mu + 0 * logit, lv, prior_mean=-1.7, prior_variance=3.0),
    lambda mu, logit, lv: laplace(mu + 0 * logit, lv, scale=0.3),
]


def one(values):
    return torch.tensor([values], dtype=torch.float64)


def each(values):
    return torch.tensor(values, dtype=torch.float64)


def on_density(mu, sigma, low=-math.inf):
    """Integral of g(z) N(z; mu, sigma) over z > low, cut off where the density is nothing."""

    def integrate(g):
        start, stop = max(low, mu - 12 * sigma), mu + 12 * sigma
        if start >= stop:
            return 0.0
        return quad(lambda z: g(z) * norm.pdf(z, mu, sigma), start, stop, epsabs=1e-12, epsrel=1e-10, limit=200)[0]

    return integrate


def spike_slab_by_quadrature(mu, gamma, sigma, alpha, m, s):
    slab = on_density(mu, sigma)
    first, second = gamma * slab(lambda z: z), gamma * slab(lambda z: z * z)
    inside = slab(lambda z: math.log(gamma / alpha) + norm.logpdf(z, mu, sigma) - norm.logpdf(z, m, s))
    return first, second - first**2, gamma * inside + (1 - gamma) * math.log((1 - gamma) / (1 - alpha))


def rectified_by_quadrature(mu, sigma, m, s):
    upper = on_density(mu, sigma, low=0.0)
    first, second = upper(lambda z: z), upper(lambda z: z * z)
    inside = upper(lambda z: norm.logpdf(z, mu, sigma) - norm.logpdf(z, m, s))
    off = norm.cdf(0, mu, sigma) * (norm.logcdf(0, mu, sigma) - norm.logcdf(0, m, s))
    return first, second - first**2, inside + off


def laplace_by_quadrature(mu, sigma, b):
    both = [on_density(mu, sigma, low=0.0), on_density(-mu, sigma, low=0.0)]  # the kink at 0 is an end of each
    absolute = sum(half(lambda z: z) for half in both)
    entropy = -on_density(mu, sigma)(lambda z: norm.logpdf(z, mu, sigma))
    return mu, sigma**2, math.log(2 * b) + absolute / b - entropy


def check(moments, expected):
    for actual, column in zip(moments, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(actual.squeeze(0).numpy(), column, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("alpha", "m", "s"), [(0.05, 0.0, 3.0), (0.4, 1.5, 0.5)])
def test_spike_slab_equals_quadrature(alpha, m, s):
    logits = [-6.0, 2.0, -1.0, 0.0, 5.0]
    moments = spike_slab(one(MU), one(logits), each(LOG_VARIANCE), alpha=alpha, prior_mean=m, prior_variance=s**2)
    check(
        moments,
        [
            spike_slab_by_quadrature(mu, 1 / (1 + math.exp(-logit)), math.exp(lv / 2), alpha, m, s)
            for mu, logit, lv in zip(MU, logits, LOG_VARIANCE, strict=True)
        ],
    )


@pytest.mark.parametrize(("m", "s"), [(-1.645 * 6.5, 6.5), (0.8, 0.7)])
def test_rectified_equals_quadrature(m, s):
    moments = rectified(one(MU), each(LOG_VARIANCE), prior_mean=m, prior_variance=s**2)
    check(
        moments,
        [rectified_by_quadrature(mu, math.exp(lv / 2), m, s) for mu, lv in zip(MU, LOG_VARIANCE, strict=True)],
    )


@pytest.mark.parametrize("b", [0.3, 2.0])
def test_laplace_equals_quadrature(b):
    moments = laplace(one(MU), each(LOG_VARIANCE), scale=b)
    check(moments, [laplace_by_quadrature(mu, math.exp(lv / 2), b) for mu, lv in zip(MU, LOG_VARIANCE, strict=True)])


def test_gaussian_offset_equals_torch_distributions():
    log_variance = each(LOG_VARIANCE)
    posterior = Normal(each(MU), log_variance.exp().sqrt())
    expected = kl_divergence(posterior, Normal(each([0.0]), each([1.7])))
    torch.testing.assert_close(normal_kl_offset(log_variance, 1.7**2) + each(MU).square() / (2 * 1.7**2), expected)


def test_rectified_divergence_equals_monte_carlo():
    mu, sigma, m, s = 0.7, 0.8, -1.0, 2.0
    moments = rectified(one([mu]), each([2 * math.log(sigma)]), prior_mean=m, prior_variance=s**2)
    u = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigma + mu
    on = Normal(mu, sigma).log_prob(u) - Normal(m, s).log_prob(u)
    off = norm.logcdf(0, mu, sigma) - norm.logcdf(0, m, s)
    ratio, z = torch.where(u > 0, on, float(off)), u.clamp_min(0)
    for samples, exact in ((ratio, moments.kl_F), (z, moments.mean_BF), ((z - z.mean()).square(), moments.variance_F)):
        error = 4 * samples.std().item() / math.sqrt(len(samples))
        assert samples.mean().item() == pytest.approx(exact.item(), abs=error)
        assert error < 0.05 * exact.item()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_gradients_equal_finite_differences(posterior):
    generator = torch.Generator().manual_seed(0)
    mu, logit = (3 * torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    log_variance = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (mu, logit, log_variance))
    assert torch.autograd.gradcheck(lambda *args: tuple(posterior(*args)), inputs)


# -- by hand --------------------------------------------------------------------------------------------------------


def test_spike_slab_by_hand():
    # gamma = 1/2; slabs N(2, 1) and N(0, 1); prior 1/2 N(0, 4) + 1/2 delta: both gates are as under the prior
    moments = spike_slab(
        one([2.0, 0.0]), one([0.0, 0.0]), each([0.0, 0.0]), alpha=0.5, prior_mean=0.0, prior_variance=4
    )
    assert moments.mean_BF.tolist() == [[1.0, 0.0]]
    assert moments.variance_F.tolist() == [0.5 * (4 + 1) - 1, 0.5]
    assert moments.kl_F.tolist() == pytest.approx(
        [0.5 * (math.log(2) + 5 / 8 - 0.5), 0.5 * (math.log(2) + 1 / 8 - 0.5)]
    )


def test_rectified_by_hand():
    # u ~ N(0, 1) against N(0, 4): half of it is off under both
    moments = rectified(one([0.0]), each([0.0]), prior_mean=0.0, prior_variance=4.0)
    assert moments.mean_BF.item() == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert moments.variance_F.item() == pytest.approx(0.5 - 1 / (2 * math.pi))
    assert moments.kl_F.item() == pytest.approx(0.5 * math.log(2) - 0.25 + 0.5 / 8)


def test_laplace_by_hand():
    moments = laplace(one([0.0]), each([0.0]), scale=1.0)
    expected = math.log(2) - 0.5 * math.log(2 * math.pi * math.e) + math.sqrt(2 / math.pi)
    assert moments.kl_F.item() == pytest.approx(expected)


# -- limits ---------------------------------------------------------------------------------------------------------


def test_divergence_from_itself_is_zero():
    logit = math.log(0.05 / 0.95)
    same = spike_slab(one([1.5]), one([logit]), each([1.2]), alpha=0.05, prior_mean=1.5, prior_variance=math.exp(1.2))
    assert same.kl_F.item() == pytest.approx(0.0, abs=1e-12)
    same = rectified(one([-3.0]), each([1.2]), prior_mean=-3.0, prior_variance=math.exp(1.2))
    assert same.kl_F.item() == pytest.approx(0.0, abs=1e-12)


def test_spike_slab_with_certain_gates():
    closed, opened = spike_slab(
        one([1.0, 1.0]), one([-1e3, 1e3]), each([0.0, 0.0]), alpha=0.1, prior_mean=0.0, prior_variance=4.0
    ).kl_F.tolist()
    assert closed == pytest.approx(-math.log(0.9))
    assert opened == pytest.approx(-math.log(0.1) + math.log(2) + 2 / 8 - 0.5)


def test_laplace_is_the_absolute_value_when_sigma_vanishes():
    mu, log_variance, b = one([0.0, 0.5, 4.0]), each([-16.0] * 3), 0.7
    constant = math.log(2 * b) - 0.5 * math.log(2 * math.pi * math.e) + 8.0
    kl_F = laplace(mu, log_variance, scale=b).kl_F
    torch.testing.assert_close(kl_F, mu[0] / b + constant, rtol=0, atol=1e-3)


def test_rectification_never_adds_divergence():
    generator = torch.Generator().manual_seed(3)
    mu = 3 * torch.randn(1, 2000, generator=generator, dtype=torch.float64)
    log_variance = torch.randn(2000, generator=generator, dtype=torch.float64)
    gaussian = kl_divergence(Normal(mu[0], log_variance.exp().sqrt()), Normal(each([-1.6]), each([2.0])))
    kl_F = rectified(mu, log_variance, prior_mean=-1.6, prior_variance=4.0).kl_F
    assert (kl_F <= gaussian + 1e-12).all()
    assert (kl_F >= 0).all()
    assert (kl_F < 0.5 * gaussian).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rectified_tails(dtype):
    sigma, m, s = 0.5, -1.645 * 2, 2.0
    mu = torch.tensor([[-1e6, -40.0, -7.0, 15.1, 40.0, 1e6]], dtype=dtype, requires_grad=True)
    log_variance = torch.full((6,), 2 * math.log(sigma), dtype=dtype, requires_grad=True)
    mean_BF, variance_F, kl_F = rectified(mu, log_variance, prior_mean=m, prior_variance=s**2)
    torch.testing.assert_close(kl_F[:3], torch.full_like(kl_F[:3], -norm.logcdf(-m / s)), rtol=1e-5, atol=0)
    gaussian = kl_divergence(Normal(mu[0, 3:], sigma), Normal(m, s)) + 0 * kl_F[3:]
    torch.testing.assert_close(kl_F[3:], gaussian, rtol=1e-5, atol=0)
    torch.testing.assert_close(mean_BF[0], torch.where(mu[0] > 0, mu[0], 0.0), rtol=1e-6, atol=1e-20)
    # the variance of a large latent is not the difference of two numbers of the size of its square
    torch.testing.assert_close(
        variance_F, torch.tensor([0, 0, 0, 1, 1, 1], dtype=dtype) * sigma**2, rtol=1e-5, atol=1e-20
    )
    (mean_BF.sum() + variance_F.sum() + kl_F.sum()).backward()
    assert torch.isfinite(mu.grad).all()
    assert torch.isfinite(log_variance.grad).all()
    torch.testing.assert_close(mu.grad[0, :3], torch.zeros(3, dtype=dtype), rtol=0, atol=1e-20)
    torch.testing.assert_close(mu.grad[0, 3:], 1 + (mu[0, 3:].detach() - m) / s**2, rtol=1e-5, atol=0)


def test_single_precision_agrees_with_double():
    generator = torch.Generator().manual_seed(3)
    mu = 3 * torch.randn(400, 50, generator=generator, dtype=torch.float64)
    log_variance = torch.linspace(-8, 3, 50, dtype=torch.float64)
    for posterior in (
        lambda mu, lv: rectified(mu, lv, prior_mean=-3.3, prior_variance=4.0),
        lambda mu, lv: spike_slab(mu.relu(), 4 * mu, lv, alpha=0.05, prior_mean=0.0, prior_variance=4.0),
        lambda mu, lv: laplace(mu.relu(), lv, scale=0.3),
    ):
        grads = []
        for dtype in (torch.float32, torch.float64):
            inputs = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in (mu, log_variance)]
            moments = posterior(*inputs)
            (moments.mean_BF.square().mean(0) + moments.variance_F + moments.kl_F).sum().backward()
            grads.append([*(term.detach().double() for term in moments), *(tensor.grad.double() for tensor in inputs)])
        for single, double in zip(*grads, strict=True):
            torch.testing.assert_close(single, double, rtol=2e-4, atol=2e-5 * double.abs().max().item())


def test_half_precision_is_computed_with_in_single():
    mu = torch.linspace(-3, 3, 40).reshape(4, 10).bfloat16()
    log_variance = torch.full((10,), -2.0).bfloat16()
    moments = rectified(mu, log_variance, prior_mean=-3.0, prior_variance=4.0)
    exact = rectified(mu.float(), log_variance.float(), prior_mean=-3.0, prior_variance=4.0)
    assert moments.mean_BF.dtype == torch.bfloat16
    assert torch.equal(moments.kl_F, exact.kl_F)


def test_averages_are_over_tokens():
    generator = torch.Generator().manual_seed(0)
    mu, logit = (torch.randn(5, 3, generator=generator) for _ in range(2))
    for posterior in (
        lambda mu, logit: spike_slab(mu, logit, torch.zeros(3), alpha=0.1, prior_mean=0.0, prior_variance=2.0),
        lambda mu, logit: rectified(mu + logit, torch.zeros(3), prior_mean=-1.0, prior_variance=2.0),
        lambda mu, logit: laplace(mu + logit, torch.zeros(3), scale=0.4),
    ):
        rows = [posterior(mu[i : i + 1], logit[i : i + 1]) for i in range(5)]
        together = posterior(mu.repeat(2, 1), logit.repeat(2, 1))
        torch.testing.assert_close(together.kl_F, torch.stack([row.kl_F for row in rows]).mean(0))
        torch.testing.assert_close(together.variance_F, torch.stack([row.variance_F for row in rows]).mean(0))


def test_blocks_of_rows_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    start = [3 * torch.randn(11, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    results = []
    for elements in (1, 12, 1 << 15):  # one row, three rows, all rows
        monkeypatch.setattr(_posterior, "_BLOCK_ELEMENTS", elements)
        results.append([])
        for posterior in POSTERIORS:
            inputs = [*(tensor.clone() for tensor in start), torch.linspace(-2, 1, 4, dtype=torch.float64)]
            for tensor in inputs:
                tensor.requires_grad_()
            moments = posterior(*inputs)
            (moments.mean_BF.pow(3).sum() + (moments.variance_F * moments.kl_F).sum()).backward()
            results[-1] += [*(term.detach() for term in moments), *(tensor.grad for tensor in inputs)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)
