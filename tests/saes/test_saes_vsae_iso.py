from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import vsae_search.saes as saes


def make(d_in=3, d_sae=5, **params):
    sae = saes.create("vsae_iso", d_in=d_in, d_sae=d_sae, **params).double()
    with torch.no_grad():
        sae.log_variance.copy_(torch.linspace(-3.0, 0.5, d_sae))
        sae.b_enc.fill_(0.1)
    return sae


def rows(num_rows, d_in=3):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_expected_reconstruction_equals_monte_carlo():
    sae, x_BD = make(), rows(1)
    loss = sae.loss(x_BD, 1.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 5, generator=generator, dtype=torch.float64)
    samples = sae.posterior_mean(x_BD) + noise * sae.log_variance.exp().sqrt()
    errors = (sae.decode(samples) - x_BD).square().sum(1).detach()
    standard_error = errors.std().item() / math.sqrt(len(errors))
    exact = (loss.reconstruction + loss.penalties["variance"]).item()
    assert errors.mean().item() == pytest.approx(exact, abs=4 * standard_error)
    assert standard_error < 0.01 * exact


def test_kl_equals_torch_distributions_and_is_a_mean_over_tokens():
    sae, x_BD = make(kl_coefficient=0.7), rows(11)
    posterior = Normal(sae.posterior_mean(x_BD), sae.log_variance.exp().sqrt().expand(11, 5))
    nats_B = kl_divergence(posterior, Normal(torch.zeros(()).double(), torch.ones(()).double())).sum(1)
    kl = sae.loss(x_BD, 1.0).penalties["kl"]
    torch.testing.assert_close(kl, 0.7 * nats_B.mean())
    torch.testing.assert_close(sae.loss(x_BD.repeat(4, 1), 1.0).penalties["kl"], kl)


def test_nothing_is_sampled():
    sae, x_BD = make(), rows(8)
    before = torch.get_rng_state()
    first = sae.loss(x_BD, 1.0).total.item()
    assert sae.loss(x_BD, 1.0).total.item() == first
    assert torch.equal(torch.get_rng_state(), before)


def test_code_has_exact_zeros():
    sae = saes.create("vsae_iso", d_in=8, d_sae=64)
    f_BF = sae.encode(torch.randn(100, 8, generator=torch.Generator().manual_seed(0)))
    l0 = (f_BF > 0).sum(1).double().mean().item()
    assert 10 < l0 < 60  # a sampled Gaussian code would give 64


@pytest.mark.parametrize("kappa", [0.01, 0.5, 4.0])
def test_sigma_has_its_optimum_where_it_starts_and_below_one(kappa):
    sae = saes.create("vsae_iso", d_in=3, d_sae=5, kl_coefficient=kappa).double()
    torch.testing.assert_close(sae.log_variance.exp(), torch.full((5,), kappa / (2 + kappa)).double())
    slopes = []
    for shift in (-0.5, 0.0, 0.5):
        sae.zero_grad()
        with torch.no_grad():
            sae.log_variance.fill_(math.log(kappa / (2 + kappa)) + shift)
        sae.loss(rows(16), 1.0).total.backward()
        slopes.append(sae.log_variance.grad[0].item())
    assert slopes[0] < -1e-4
    assert slopes[1] == pytest.approx(0, abs=1e-12)
    assert slopes[2] > 1e-4


def test_sigma_is_learned_down_from_one():
    sae = saes.create("vsae_iso", d_in=3, d_sae=5, kl_coefficient=0.5, initial_log_variance=0.0)
    optimiser = torch.optim.Adam([sae.log_variance], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        sae.loss(rows(16).float(), 1.0).total.backward()
        optimiser.step()
    torch.testing.assert_close(sae.log_variance.exp(), torch.full((5,), 0.2), rtol=0.05, atol=0)


def test_log_variance_leaves_the_bound_again():
    sae = saes.create("vsae_iso", d_in=3, d_sae=5)
    with torch.no_grad():
        sae.log_variance.fill_(-40.0)
    sae.after_step()
    assert torch.equal(sae.log_variance.data, torch.full((5,), -8.0))
    sae.loss(rows(4).float(), 1.0).total.backward()
    assert (sae.log_variance.grad < 0).all()


def test_metrics_against_monte_carlo_and_distributions():
    sae, x_BD = make(kl_coefficient=0.5), rows(3)
    assert sae.metrics() == {}
    sae.calibrate(x_BD)
    metrics = sae.metrics()
    sigma = sae.log_variance.exp().sqrt().detach()
    posterior = Normal(sae.posterior_mean(x_BD).detach(), sigma.expand(3, 5))
    nats = kl_divergence(posterior, Normal(torch.zeros(()).double(), torch.ones(()).double())).sum(1).mean().item()
    assert metrics["kl_nats"] == pytest.approx(nats)
    generator = torch.Generator().manual_seed(1)
    samples = posterior.mean + torch.randn(60_000, 3, 5, generator=generator, dtype=torch.float64) * sigma
    xhat = (samples @ sae.W_dec + sae.b_dec).detach()
    log_likelihood = Normal(xhat, math.sqrt(0.25)).log_prob(x_BD).sum(-1).mean().item()
    assert metrics["elbo_nats"] == pytest.approx(log_likelihood - nats, rel=0.01)
    assert metrics["posterior_std"] == pytest.approx(sigma.mean().item())


def test_collapsed_latents_are_counted():
    sae = saes.create("vsae_iso", d_in=4, d_sae=8)
    with torch.no_grad():
        sae.log_variance.fill_(0.0)  # equal to the prior where the mean is 0 too
        sae.W_enc[:, :2] = 0.0
        sae.b_enc[2:] = 1.0
    sae.calibrate(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert sae.metrics()["collapsed_fraction"] == pytest.approx(2 / 8)


def test_target_l0_is_met_on_calibration_rows_and_does_not_touch_training():
    sae = saes.create("vsae_iso", d_in=8, d_sae=32, target_l0=3.5)
    x_BD = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    before = sae.loss(x_BD, 1.0).total.item()
    sae.calibrate(x_BD)
    assert (sae.encode(x_BD) > 0).sum().item() == 1400
    assert sae.loss(x_BD, 1.0).total.item() == before
    assert sae.threshold.item() > 0
    assert sae.canonical().activation == "jumprelu"


def test_fixed_sigma_is_not_trained():
    sae = saes.create("vsae_iso", d_in=3, d_sae=5, learn_sigma=False, initial_log_variance=-2.0)
    sae.loss(rows(4).float(), 1.0).total.backward()
    assert sae.log_variance.grad is None
    assert sae.log_variance.tolist() == [-2.0] * 5
