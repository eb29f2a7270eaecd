"""Short training on known directions: sparse priors find them, a Gaussian prior does not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

import vsae_search.saes as saes
from vsae_search.space import TrainingSpec
from vsae_search.training import fit

NUM_FEATURES, D_IN, PROBABILITY = 20, 10, 0.05
TRUE_L0 = NUM_FEATURES * PROBABILITY


def directions():
    """Random unit directions, pushed apart."""
    raw = torch.randn(NUM_FEATURES, D_IN, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.02)
    for _ in range(200):
        rows = normalize(raw, dim=1)
        optimiser.zero_grad()
        (rows @ rows.T - torch.eye(NUM_FEATURES)).pow(4).sum().backward()
        optimiser.step()
    return normalize(raw.detach(), dim=1)


@pytest.fixture(scope="module")
def toy():
    directions_MD = directions()
    generator = torch.Generator().manual_seed(1)
    on = torch.rand(60_000, NUM_FEATURES, generator=generator) < PROBABILITY
    rows = (on * torch.rand(on.shape, generator=generator)) @ directions_MD
    return directions_MD, rows * (D_IN / rows.square().sum(1).mean()).sqrt()


def train(toy, architecture, num_steps=500, batch_size=256, **params):
    directions_MD, rows = toy
    sae = saes.create(architecture, d_in=D_IN, d_sae=NUM_FEATURES, lr=5e-3, **params)
    batches = rows.split(batch_size)
    stream = (batches[step % (len(batches) - 40)] for step in range(num_steps))
    spec = TrainingSpec(num_tokens=num_steps * batch_size, batch_size=batch_size)
    fit(sae, stream, spec, on_rung=lambda rung: None)
    held_out = rows[-10_000:]
    sae.calibrate(held_out)
    with torch.no_grad():
        f_BF = sae.encode(held_out)
        mmcs = (directions_MD @ normalize(sae.W_dec, dim=1).T).amax(1).mean().item()
        fvu = (sae.decode(f_BF) - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum()
    return mmcs, (f_BF > 0).sum(1).double().mean().item(), fvu.item(), sae.metrics()


@pytest.fixture(scope="module")
def ridge(toy):
    return train(toy, "vsae_iso", kl_coefficient=0.2)


def test_a_gaussian_prior_spreads(ridge):
    mmcs, l0, *_ = ridge
    assert mmcs < 0.85
    assert l0 > 6 * TRUE_L0


@pytest.mark.parametrize(
    ("architecture", "params", "l0_range"),
    [
        ("vsae_spike_slab", {"prior_l0": TRUE_L0}, (0.5, 1.2)),
        ("vsae_spike_slab", {"prior_l0": TRUE_L0, "tied_gate": False}, (0.5, 1.2)),
        ("vsae_rectified", {"prior_l0": TRUE_L0}, (0.6, 1.5)),
        ("vsae_laplace", {"observation_variance": 0.3, "l1_coefficient": 1.0}, (0.8, 4.0)),
        ("vsae_topk", {"k": 2}, (0.8, 2.0)),
    ],
)
def test_sparse_priors_recover_features(toy, ridge, architecture, params, l0_range):
    mmcs, l0, fvu, metrics = train(toy, architecture, **params)
    assert mmcs > 0.97
    assert mmcs > ridge[0] + 0.12
    assert l0_range[0] < l0 / TRUE_L0 < l0_range[1]
    assert fvu < 0.25
    assert metrics["collapsed_fraction"] == 0.0


@pytest.mark.parametrize("architecture", ["vsae_spike_slab", "vsae_rectified"])
def test_too_much_noise_collapses_the_posterior(toy, architecture):
    _, l0, fvu, metrics = train(toy, architecture, num_steps=600, prior_l0=TRUE_L0, observation_variance=100.0)
    assert metrics["collapsed_fraction"] == 1.0
    assert metrics["kl_nats"] < 0.05 * NUM_FEATURES
    assert fvu > 0.9
    assert l0 < 0.1
