"""The legacy objective against a transcription of its formulas, with the same noise."""

from __future__ import annotations

import math

import pytest
import torch

import vsae_search.saes as saes
from vsae_search.saes._legacy_seed import seeded_noise
from vsae_search.space import TrainingSpec
from vsae_search.training import fit

NAMES = ("vsae_iso", "vsae_mix", "vsae_multi")
EXTRA = {"vsae_mix": {"prior_l0": 2.0, "legacy_correlated_pairs": 1, "legacy_anticorrelated_pairs": 2}}


def make(name, *, d_in=4, d_sae=9, seed=3, **params):
    sae = saes.create(name, d_in=d_in, d_sae=d_sae, seed=seed, legacy_seed=True, **EXTRA.get(name, {}) | params)
    with torch.no_grad():
        sae.b_enc.fill_(0.1)
        sae.b_dec.fill_(-0.2)
        if params.get("learn_sigma", True):
            sae.b_log_variance.fill_(0.05)
    return sae


def rows(num_rows, d_in=4, seed=5):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed))


def relu(value):
    return max(value, 0.0)


def transcription(sae, x_BD, noise_BF, var_flag):
    """Reconstruction and divergence, one number at a time."""
    num_rows, d_sae = noise_BF.shape
    mu, logvar, z = ([[0.0] * d_sae for _ in range(num_rows)] for _ in range(3))
    rec = 0.0
    for b in range(num_rows):
        centred = x_BD[b] - sae.b_dec
        for i in range(d_sae):
            mu[b][i] = relu((centred @ sae.W_enc[:, i] + sae.b_enc[i]).item())
            if var_flag:
                logvar[b][i] = relu((centred @ sae.W_log_variance[:, i] + sae.b_log_variance[i]).item())
            z[b][i] = mu[b][i] + math.exp(logvar[b][i] / 2) * noise_BF[b, i].item()
        xhat_D = torch.tensor(z[b], dtype=torch.float64) @ sae.W_dec + sae.b_dec
        rec += (xhat_D - x_BD[b]).square().sum().item() / num_rows
    return rec, {"vsae_iso": iso_kl, "vsae_mix": mix_kl, "vsae_multi": multi_kl}[sae.name](mu, logvar)


def iso_kl(mu, logvar):
    return -0.5 * sum(
        1 + v - m**2 - math.exp(v)
        for row_m, row_v in zip(mu, logvar, strict=True)
        for m, v in zip(row_m, row_v, strict=True)
    )


def mix_kl(mu, logvar):
    prior = [1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0]  # a correlated pair, two anticorrelated ones, the rest
    total = 0.0
    for row_m, row_v in zip(mu, logvar, strict=True):
        total += 0.5 * sum(-v + math.exp(v) + (m - p) ** 2 - 1 for m, v, p in zip(row_m, row_v, prior, strict=True))
    return total / len(mu)


def multi_kl(mu, logvar, rho=0.5):
    d_sae = len(mu[0])
    sigma = torch.full((d_sae, d_sae), rho, dtype=torch.float64).fill_diagonal_(1.0)
    precision = torch.linalg.inv(sigma)
    mean_F = torch.tensor(mu, dtype=torch.float64).mean(0)
    logvar_BF = torch.tensor(logvar, dtype=torch.float64)
    trace = (precision.diagonal() * logvar_BF.exp().mean(0)).sum()
    kl = 0.5 * (trace + mean_F @ precision @ mean_F - d_sae + torch.logdet(sigma) - logvar_BF.sum(1).mean())
    return max(kl.item(), 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("var_flag", [0, 1])
def test_loss_equals_the_formula(name, var_flag):
    sae, x_BD = make(name, learn_sigma=bool(var_flag)).double(), rows(6).double()
    noise_BF = seeded_noise(torch.zeros(6, 9).double(), 3, 0.25)
    rec, kl = transcription(sae, x_BD, noise_BF, var_flag)
    loss = sae.loss(x_BD, 0.25)
    assert loss.reconstruction.item() == pytest.approx(rec, rel=1e-10)
    assert loss.penalties["kl"].item() == pytest.approx(3e-4 * kl, rel=1e-10)
    assert loss.total.item() == pytest.approx(rec + 3e-4 * kl, rel=1e-10)
    assert kl > 0.1
    assert set(loss.penalties) == {"kl"}


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name):
    sae, x_BD = make(name, d_in=3, d_sae=6).double(), rows(4, d_in=3).double()
    sae.loss(x_BD, 0.4).total.backward()
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.W_log_variance, sae.b_log_variance):
        flat, width = parameter.data.view(-1), 1e-6
        for index in range(len(flat)):
            start, values = flat[index].item(), []
            for shift in (width, -width):
                flat[index] = start + shift
                values.append(sae.loss(x_BD, 0.4).total.item())
            flat[index] = start
            slope = (values[0] - values[1]) / (2 * width)
            assert parameter.grad.view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_noise_is_normal_and_a_function_of_seed_and_step():
    like = torch.zeros(400, 500)
    first = seeded_noise(like, 0, 0.5)
    assert torch.equal(first, seeded_noise(like, 0, 0.5))
    assert first.mean().item() == pytest.approx(0, abs=0.01)
    assert first.std().item() == pytest.approx(1, abs=0.01)
    for other in (seeded_noise(like, 1, 0.5), seeded_noise(like, 0, 0.5001)):
        assert abs((first * other).mean().item()) < 0.01
    assert seeded_noise(like[:2].double(), 0, 0.5).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_sampling_leaves_the_global_generator_alone(name):
    sae, before = make(name), torch.get_rng_state()
    assert sae.loss(rows(8), 0.1).total != sae.loss(rows(8), 0.2).total
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_is_the_mean_and_its_export_the_same(name):
    sae, x_BD = make(name), rows(50)
    mu_BF = sae.preactivations(x_BD).relu()
    assert torch.equal(sae.encode(x_BD), mu_BF)
    assert torch.equal(sae.loss(x_BD, 0.0).fired_F, (mu_BF > 0).any(0))
    folded = sae.canonical()
    torch.testing.assert_close(folded.encode(x_BD), mu_BF, rtol=1e-4, atol=1e-5)
    sae.calibrate(x_BD)
    assert sae.metrics()["posterior_std"] >= 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_what_is_trained(name, learn_sigma):
    sae = make(name, learn_sigma=learn_sigma)
    moved = {parameter for parameter, value in sae.named_parameters() if value.requires_grad}
    head = {"W_log_variance", "b_log_variance"} if learn_sigma else set()
    assert moved == {"W_enc", "b_enc", "W_dec", "b_dec"} | head
    assert head <= sae.latent_axes().keys()
    sae.replace_latents(torch.tensor([1]), torch.eye(4)[:1], torch.ones(9, dtype=torch.bool))
    if learn_sigma:
        assert not sae.W_log_variance[:, 1].any()


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_after_an_interruption_as_if_there_had_been_none(name, tmp_path):
    spec, x_BD = TrainingSpec(num_tokens=40 * 64, batch_size=64), rows(40 * 64)

    def run(directory, stop):
        sae = make(name)

        def on_rung(rung):
            if stop and rung.index == 0:
                raise InterruptedError

        fit(sae, iter(x_BD.split(64)), spec, on_rung=on_rung, checkpoint=directory)
        return sae

    whole = run(None, stop=False)
    with pytest.raises(InterruptedError):
        run(tmp_path, stop=True)
    resumed = run(tmp_path, stop=False)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    torch.testing.assert_close(whole.W_dec.norm(dim=1), torch.ones(9))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_off_unless_asked_for(name):
    config = saes.get(name).Config
    assert config.model_fields["legacy_seed"].default is False
    assert config.model_fields["legacy_kl_coefficient"].default == 3e-4
    plain = saes.create(name, d_in=4, d_sae=9, **{k: v for k, v in EXTRA.get(name, {}).items() if k == "prior_l0"})
    assert not any("W_log_variance" in key for key in plain.state_dict())
