from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from vsae_search.saes._covariance import (
    BlockPrecision,
    LowRankPrecision,
    gaussian_kl,
    limit_factors_,
    mean_gaussian_kl,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(d_sae=11, size=4, rho=0.5):
    return BlockPrecision(d_sae, size, rho, torch.zeros((), dtype=torch.float64))


def block_covariance(d_sae=11, size=4, rho=0.5):
    blocks = [torch.full((size, size), rho, dtype=torch.float64).fill_diagonal_(1.0)] * (d_sae // size)
    return torch.block_diag(*blocks, torch.eye(d_sae % size, dtype=torch.float64))


def factors(d_sae=11, rank=3, share=0.7, seed=1):
    return share**0.5 * torch.nn.functional.normalize(randn(d_sae, rank, seed=seed), dim=1)


def low_rank_covariance(factors_FR):
    return torch.diag(1 - factors_FR.square().sum(1)) + factors_FR @ factors_FR.T


PRIORS = [
    *((block(11, size, rho), block_covariance(11, size, rho)) for size, rho in ((2, 0.3), (4, 0.5), (4, -0.3))),
    (block(9, 9, 0.95), block_covariance(9, 9, 0.95)),
    (block(5, 8, 0.5), torch.eye(5, dtype=torch.float64)),
    *(
        (LowRankPrecision(factors(rank=rank, share=share)), low_rank_covariance(factors(rank=rank, share=share)))
        for rank, share in ((1, 0.1), (3, 0.7), (11, 0.99), (20, 0.5))
    ),
]


@pytest.mark.parametrize(("prior", "covariance_FF"), PRIORS)
def test_inverse_and_determinant_equal_those_of_the_dense_matrix(prior, covariance_FF):
    d_sae = len(covariance_FF)
    torch.testing.assert_close(covariance_FF.diagonal(), torch.ones(d_sae, dtype=torch.float64))
    precision_FF, delta_BF = torch.linalg.inv(covariance_FF), randn(6, d_sae, seed=4)
    exact = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(prior.diagonal_F, precision_FF.diagonal(), **exact)
    torch.testing.assert_close(prior.log_determinant, torch.logdet(covariance_FF), **exact)
    quadratic_B = ((delta_BF @ precision_FF) * delta_BF).sum(1)
    torch.testing.assert_close(prior.quadratic(delta_BF), quadratic_B, **exact)


@pytest.mark.parametrize(("prior", "covariance_FF"), PRIORS)
def test_divergence_of_each_token_equals_torch_distributions(prior, covariance_FF):
    d_sae = len(covariance_FF)
    mu_BF, log_variance_F = randn(6, d_sae).relu(), randn(d_sae, seed=2)
    posterior = MultivariateNormal(mu_BF, torch.diag(log_variance_F.exp()))
    dense_B = kl_divergence(posterior, MultivariateNormal(torch.zeros(d_sae).double(), covariance_FF))
    exact = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(gaussian_kl(mu_BF, log_variance_F, prior), dense_B, **exact)
    mean, square_F = mean_gaussian_kl(mu_BF, log_variance_F, prior)
    torch.testing.assert_close(mean, dense_B.mean(), **exact)
    torch.testing.assert_close(square_F, mu_BF.square().mean(0), **exact)


def test_a_block_by_hand():
    # two latents, correlation 1/2: the inverse is [[4, -2], [-2, 4]] / 3, the determinant 3/4
    prior = block(2, 2, 0.5)
    assert prior.diagonal_F.tolist() == pytest.approx([4 / 3, 4 / 3])
    assert prior.log_determinant.item() == pytest.approx(math.log(0.75))
    assert prior.quadratic(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()).tolist() == pytest.approx([4 / 3, 4.0])


def test_gradient_by_factors_mean_and_variance():
    mu_BF, log_variance_F, factors_FR = randn(4, 6), randn(6, seed=1), factors(6, 2)
    for tensor in (mu_BF, log_variance_F, factors_FR):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, v, u: gaussian_kl(m, v, LowRankPrecision(u)), (mu_BF, log_variance_F, factors_FR)
    )
    assert torch.autograd.gradcheck(lambda m, v: gaussian_kl(m, v, block(6, 3, 0.4)), (mu_BF, log_variance_F))
    assert torch.autograd.gradcheck(
        lambda m, v, u: 0.7 * mean_gaussian_kl(m, v, LowRankPrecision(u))[0], (mu_BF, log_variance_F, factors_FR)
    )
    assert torch.autograd.gradcheck(
        lambda m, v: 0.7 * mean_gaussian_kl(m, v, block(6, 3, 0.4))[0], (mu_BF, log_variance_F)
    )


def test_half_precision_is_computed_in_float32():
    mu_BF, log_variance_F, factors_FR = randn(5, 11).bfloat16(), randn(11, seed=2).bfloat16(), factors().bfloat16()
    kl_B = gaussian_kl(mu_BF, log_variance_F, LowRankPrecision(factors_FR))
    exact_B = gaussian_kl(mu_BF.double(), log_variance_F.double(), LowRankPrecision(factors_FR.double()))
    assert kl_B.dtype == torch.float32
    torch.testing.assert_close(kl_B, exact_B.float(), rtol=1e-4, atol=1e-4)


def test_limited_factors_leave_a_hundredth():
    factors_FR = torch.cat([factors(4, 3, share=0.5), 3.0 * factors(4, 3, share=0.9), torch.zeros(1, 3).double()])
    limited_FR = factors_FR.clone()
    limit_factors_(limited_FR)
    assert torch.equal(limited_FR[:4], factors_FR[:4])
    torch.testing.assert_close(limited_FR[4:8].square().sum(1), torch.full((4,), 0.99).double())
    torch.testing.assert_close(limited_FR[4:8] / factors_FR[4:8], torch.full((4, 3), (0.99 / 8.1) ** 0.5).double())
    assert torch.equal(limited_FR[8], factors_FR[8])
