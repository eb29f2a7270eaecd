"""What the sparse variational architectures do with their posteriors: objective, gates, dead latents, diagnostics."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.saes import vsae_topk
from vsae_search.saes._auxk import keep_largest
from vsae_search.training.dead import resample
from vsae_search.training.optimiser import build_adam

ALL = {
    "vsae_spike_slab": {"prior_l0": 1.5, "slab_mean": 0.4},
    "vsae_rectified": {"prior_l0": 1.5},
    "vsae_laplace": {},
    "vsae_topk": {"k": 2},
}
SPARSE = ("vsae_spike_slab", "vsae_rectified")


def make(architecture, d_in=3, d_sae=5, **params):
    return saes.create(architecture, d_in=d_in, d_sae=d_sae, **ALL[architecture] | params)


def spread(architecture, **params):
    """In double precision, with parameters of every size."""
    sae = make(architecture, **params).double()
    with torch.no_grad():
        sae.log_variance.copy_(torch.linspace(-3.0, 0.5, 5))
        sae.b_enc.copy_(torch.linspace(-0.3, 0.8, 5))
        if architecture == "vsae_spike_slab":
            sae.gate_threshold.copy_(torch.linspace(0.2, 1.0, 5))
            sae.log_gate_gain.copy_(torch.linspace(-0.5, 1.5, 5))
    return sae


def rows(num_rows, d_in=3, seed=5):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(sae, x_BD, num_samples):
    """Samples of q(z|x) [S, B, F], written without the closed forms."""
    generator = torch.Generator().manual_seed(0)
    pre_BF = sae.preactivations(x_BD).detach()
    noise = torch.randn(num_samples, *pre_BF.shape, generator=generator, dtype=torch.float64)
    noise = noise * sae.log_variance.detach().exp().sqrt()
    if sae.name == "vsae_spike_slab":
        gamma_BF = ((pre_BF - sae.gate_threshold) * sae.log_gate_gain.exp()).sigmoid().detach()
        on = torch.rand(noise.shape, generator=generator, dtype=torch.float64) < gamma_BF
        return on * (pre_BF.relu() + noise)
    if sae.name == "vsae_rectified":
        return (pre_BF + noise).relu()
    if sae.name == "vsae_topk":
        f_BF = keep_largest(pre_BF, sae.config.k)
        return (f_BF + noise) * (f_BF > 0)
    return pre_BF.relu() + noise


def decoded(sae, x_BD, num_samples):
    """Reconstructions [S, B, D] of samples."""
    samples = draw(sae, x_BD, num_samples)
    return sae.decode(samples.flatten(0, 1)).unflatten(0, samples.shape[:2]).detach()


def mean_and_error(samples):
    return samples.mean().item(), 4 * samples.std().item() / math.sqrt(samples.numel())


@pytest.mark.parametrize("architecture", ALL)
def test_expected_reconstruction_equals_monte_carlo(architecture):
    sae, x_BD = spread(architecture), rows(1)
    loss = sae.loss(x_BD, 1.0)
    errors = (decoded(sae, x_BD, 200_000) - x_BD).square().sum(-1)
    mean, error = mean_and_error(errors)
    assert mean == pytest.approx((loss.reconstruction + loss.penalties["variance"]).item(), abs=error)
    assert error < 0.03 * mean


@pytest.mark.parametrize("architecture", ALL)
def test_expected_l0_equals_monte_carlo(architecture):
    sae, x_BD = spread(architecture), rows(4)
    sae.calibrate(x_BD)
    mean, error = mean_and_error((draw(sae, x_BD, 20_000) != 0).double().sum(-1))
    assert sae.metrics()["expected_l0"] == pytest.approx(mean, abs=error + 1e-9)


@pytest.mark.parametrize("architecture", ALL)
def test_metrics_follow_from_loss(architecture):
    sae, x_BD = spread(architecture, observation_variance=0.3), rows(40)
    assert sae.metrics() == {}
    sae.calibrate(x_BD)
    metrics, loss = sae.metrics(), sae.loss(x_BD, 1.0)
    assert metrics["kl_nats"] == pytest.approx(loss.penalties["kl"].item() / 0.6)
    noise_nats = 1.5 * math.log(2 * math.pi * 0.3)
    assert metrics["elbo_nats"] == pytest.approx(-loss.total.item() / 0.6 - noise_nats)
    assert metrics["posterior_std"] == pytest.approx(sae.log_variance.exp().sqrt().mean().item())
    # and the bound is one: by the log-likelihood of samples
    likelihood = Normal(decoded(sae, x_BD, 4000), math.sqrt(0.3)).log_prob(x_BD).sum(-1)
    mean, error = mean_and_error(likelihood.mean(1))
    assert metrics["elbo_nats"] == pytest.approx(mean - metrics["kl_nats"], abs=error)


@pytest.mark.parametrize("architecture", ALL)
def test_divergence_is_a_mean_over_tokens_and_nothing_is_sampled(architecture):
    sae, x_BD = spread(architecture), rows(7)
    state = torch.get_rng_state()
    loss = sae.loss(x_BD, 1.0)
    assert sae.loss(x_BD, 1.0).total.item() == loss.total.item()
    assert torch.equal(torch.get_rng_state(), state)
    singles = [sae.loss(row_D[None], 1.0).penalties["kl"].item() for row_D in x_BD]
    assert loss.penalties["kl"].item() == pytest.approx(sum(singles) / 7)
    assert sae.loss(x_BD.repeat(9, 1), 1.0).penalties["kl"].item() == pytest.approx(sum(singles) / 7)


@pytest.mark.parametrize("architecture", ALL)
def test_divergence_is_warmed_up(architecture):
    sae, x_BD = spread(architecture, kl_warmup_fraction=0.2), rows(7)
    sae.penalty_warmup_fraction = 0.5  # of other penalties: the divergence has its own
    full = sae.loss(x_BD, 0.2).penalties["kl"].item()
    assert sae.loss(x_BD, 0.0).penalties["kl"].item() == 0.0
    assert sae.loss(x_BD, 0.05).penalties["kl"].item() == pytest.approx(full / 4)
    assert sae.loss(x_BD, 1.0).penalties["kl"].item() == full
    assert spread(architecture, kl_warmup_fraction=0.0).loss(x_BD, 0.0).penalties["kl"].item() == pytest.approx(full)


@pytest.mark.parametrize("architecture", ALL)
def test_free_bits_are_a_floor_per_latent(architecture):
    x_BD = rows(7)
    kl_F = spread(architecture).posterior(x_BD)[0].kl_F.detach()
    floor = kl_F.median().item() * 1.0001
    sae = spread(architecture, free_bits=floor)
    kl = sae.loss(x_BD, 1.0).penalties["kl"]
    assert kl.item() == pytest.approx(sae.kappa * kl_F.clamp_min(floor).sum().item())
    kl.backward()
    below_F = kl_F < floor
    assert 0 < below_F.sum() < 5
    assert (sae.log_variance.grad[below_F] == 0).all()
    assert (sae.log_variance.grad[~below_F] != 0).all()


@pytest.mark.parametrize("architecture", ALL)
def test_sigma_starts_at_its_optimum(architecture):
    # with the latent on for certain; for the Laplace prior far from 0
    sae = make(architecture, observation_variance=0.2)
    with torch.no_grad():
        sae.b_enc.fill_(50.0)
        if architecture == "vsae_topk":
            sae.b_enc[2:] = -50.0
    loss = sae.loss(rows(4).float(), 1.0)
    loss.total.backward()
    on_F = loss.fired_F
    slope = loss.penalties["variance"].item() / on_F.sum()
    assert sae.log_variance.grad[on_F].abs().max() < 1e-5 * slope


@pytest.mark.parametrize("architecture", ALL)
def test_log_variance_leaves_the_bounds_again(architecture):
    # so strong a prior that the posterior follows it to either side
    for bound, params in ((-8.0, {"observation_variance": 0.5}), (3.0, {"observation_variance": 0.05})):
        sae = make(architecture, **params)
        with torch.no_grad():
            sae.log_variance.fill_(5 * bound)
            sae.b_enc.fill_(5.0)
        sae.after_step()
        assert (sae.log_variance.data == bound).all()
        loss = sae.loss(rows(4).float(), 1.0)
        loss.total.backward()
        assert (sae.log_variance.grad[loss.fired_F] * bound > 0).all()


@pytest.mark.parametrize("architecture", ALL)
def test_a_step_has_five_matrix_products(architecture):
    class Count(TorchDispatchMode):
        products = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.products += func.overloadpacket.__name__ in {"mm", "addmm", "bmm", "matmul"}
            return func(*args, **(kwargs or {}))

    def products(sae):
        with Count() as count:
            sae.loss(rows(16).float(), 1.0).total.backward()
        return count.products

    assert products(make(architecture)) == 5
    if architecture == "vsae_spike_slab":
        assert products(make(architecture, tied_gate=False)) == 7


# -- the code -------------------------------------------------------------------------------------------------------


def test_spike_slab_code_is_the_slab_where_the_gate_is_open():
    x_BD = rows(300)
    for sae in (spread("vsae_spike_slab"), make("vsae_spike_slab", tied_gate=False).double()):
        with torch.no_grad():
            if not sae.config.tied_gate:
                sae.W_gate += 0.3 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        f_BF, gamma_BF = sae.encode(x_BD), sae.presence(x_BD)
        pre_BF = sae.preactivations(x_BD)
        assert torch.equal(f_BF, torch.where(gamma_BF > 0.5, pre_BF.relu(), 0.0))
        assert (f_BF == 0).any(0).all()
        assert (f_BF > 0).any(0).all()
        assert torch.equal(sae.posterior(x_BD)[1], (f_BF > 0).any(0))
        for row in range(20):
            assert torch.equal(sae.posterior(x_BD[row : row + 1])[1], f_BF[row] > 0)


def test_rectified_code_is_positive_where_the_latent_is_more_likely_on():
    sae, x_BD = spread("vsae_rectified"), rows(300)
    f_BF = sae.encode(x_BD)
    assert torch.equal(f_BF > 0, sae.presence(x_BD) > 0.5)
    assert (f_BF == 0).any(0).all()
    assert torch.equal(f_BF[f_BF > 0], sae.preactivations(x_BD)[f_BF > 0])
    assert sae.canonical().activation == "relu"


def test_spike_slab_by_hand():
    # both gates are exactly half open; see the posterior's own test for the numbers
    sae = saes.create(
        "vsae_spike_slab", d_in=2, d_sae=2, prior_l0=1, prior_scale=2, observation_variance=0.25, kl_warmup_fraction=0
    )
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
        sae.log_variance.zero_()
        sae.gate_threshold.copy_(torch.tensor([2.0, 0.0]))
    loss = sae.loss(torch.tensor([[2.0, 0.0]]), 0.0)
    assert loss.reconstruction.item() == 1.0
    assert loss.penalties["variance"].item() == pytest.approx(1.5 + 0.5)
    kl_nats = 0.5 * (math.log(2) + 5 / 8 - 0.5) + 0.5 * (math.log(2) + 1 / 8 - 0.5)
    assert loss.penalties["kl"].item() == pytest.approx(0.5 * kl_nats)


@pytest.mark.parametrize("scope", ["active", "all"])
def test_topk_by_hand(scope):
    # s² = 2 * 2 / 1 = 4, σ² = 1: the winner costs 9/8, the loser 1/8, either log 2 - 3/8 on top
    sae = saes.create(
        "vsae_topk", d_in=2, d_sae=2, k=1, prior_scale=2, observation_variance=0.5, kl_warmup_fraction=0, kl_scope=scope
    )
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
        sae.log_variance.zero_()
    loss = sae.loss(torch.tensor([[3.0, 1.0]]), 0.0)
    assert loss.reconstruction.item() == 1.0
    assert loss.penalties["variance"].item() == 1.0
    offset = math.log(2) - 3 / 8
    expected = 9 / 8 + offset if scope == "active" else 10 / 8 + 2 * offset
    assert loss.penalties["kl"].item() == pytest.approx(expected)
    assert loss.fired_F.tolist() == [True, False]
    loss.total.backward()
    assert (sae.W_enc.grad[:, 1].abs().sum() > 0) == (scope == "all")


def test_topk_without_divergence_is_topk():
    x_BD = rows(20).float()
    plain = saes.create("topk", d_in=3, d_sae=5, k=2)
    sae = make("vsae_topk")
    assert torch.equal(sae.encode(x_BD), plain.encode(x_BD))
    assert sae.loss(x_BD, 0.0).reconstruction.item() == pytest.approx(plain.loss(x_BD, 0.0).total.item())


def test_topk_from_active_entries_alone_is_the_same(monkeypatch):
    x_BD, results = rows(40, 8), []
    for dense in (False, True):
        sae = saes.create("vsae_topk", d_in=8, d_sae=1024, k=3, free_bits=1e-3).double()
        sae.mark_dead(torch.arange(1024) % 2 == 0)
        if dense:
            monkeypatch.setattr(vsae_topk, "fixed_pays", lambda *args: False)
        else:
            monkeypatch.setattr(sae, "posterior", None)  # not asked for
        loss = sae.loss(x_BD, 0.1)
        loss.total.backward()
        results.append([*loss.penalties.values(), loss.fired_F, *(parameter.grad for parameter in sae.parameters())])
    for sparse, dense in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=1e-12)


def test_laplace_is_an_l1_penalty_when_sigma_is_small():
    params = {"observation_variance": 0.3, "l1_coefficient": 0.7}
    sae, relu = (
        make("vsae_laplace", **params).double(),
        saes.create("relu", d_in=3, d_sae=5, l1_coefficient=0.7).double(),
    )
    x_BD = rows(20)
    with torch.no_grad():
        sae.log_variance.fill_(-16.0)
    for model in (sae, relu):
        model.loss(x_BD, 1.0).total.backward()
    torch.testing.assert_close(sae.W_enc.grad, relu.W_enc.grad, rtol=1e-2, atol=1e-3)


def test_laplace_threshold_meets_target_l0_and_does_not_touch_training():
    sae = saes.create("vsae_laplace", d_in=8, d_sae=32, target_l0=3.5)
    x_BD = rows(400, 8).float()
    before = sae.loss(x_BD, 1.0).total.item()
    sae.calibrate(x_BD)
    assert (sae.encode(x_BD) > 0).sum().item() == 1400
    assert sae.loss(x_BD, 1.0).total.item() == before
    assert sae.canonical().activation == "jumprelu"


# -- start, dead and collapsed latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", SPARSE)
@pytest.mark.parametrize(("prior_l0", "expected"), [(0.5, 0.1), (8.0, 0.25)])
def test_latents_start_as_often_on_as_the_prior_says_but_at_least_a_tenth(architecture, prior_l0, expected):
    sae = saes.create(architecture, d_in=32, d_sae=32, prior_l0=prior_l0)
    x_BD = rows(4000, 32).float()  # mean of ‖x‖² is d_in
    presence = sae.presence(torch.zeros(1, 32) if architecture == "vsae_spike_slab" else x_BD).mean().item()
    assert presence == pytest.approx(expected, rel=0.05)
    assert (sae.encode(x_BD) > 0).any(0).all()


@pytest.mark.parametrize("architecture", ALL)
def test_auxiliary_loss_moves_dead_latents_only(architecture):
    sae, x_BD = make(architecture), rows(64).float()
    assert sae.loss(x_BD, 1.0).penalties["auxk"].item() == 0.0
    dead_F = torch.tensor([False, True, False, False, True])
    sae.mark_dead(dead_F)
    with torch.no_grad():
        sae.b_enc.fill_(0.5)
    auxk = sae.loss(x_BD, 1.0).penalties["auxk"]
    auxk.backward()
    for grad in (sae.W_enc.grad.T, sae.b_enc.grad, sae.W_dec.grad):
        assert (grad[~dead_F] == 0).all()
        assert (grad[dead_F] != 0).any()
    assert sae.b_dec.grad is None or (sae.b_dec.grad == 0).all()
    without = make(architecture, aux_coefficient=0.0)
    without.mark_dead(dead_F)
    assert without.loss(x_BD, 1.0).penalties["auxk"].item() == 0.0
    assert without.resample_at() == ()


@pytest.mark.parametrize("architecture", [*SPARSE, "vsae_spike_slab untied", "vsae_laplace", "vsae_topk"])
def test_resampled_latents_fire_where_they_point(architecture):
    architecture, *untied = architecture.split()
    sae = saes.create(architecture, d_in=8, d_sae=24, **ALL[architecture] | ({"tied_gate": False} if untied else {}))
    x_BD = 3 * rows(256, 8).float()
    optimiser = build_adam(sae)
    sae.loss(x_BD, 1.0).total.backward()
    optimiser.step()
    dead_F = torch.arange(24) < 4
    with torch.no_grad():
        sae.b_enc[dead_F] = -100.0
        sae.log_variance[dead_F] = 2.0
    assert not sae.loss(x_BD, 1.0).fired_F[dead_F].any()
    index_N = resample(sae, optimiser, dead_F, x_BD, torch.Generator().manual_seed(0))
    assert index_N.tolist() == [0, 1, 2, 3]
    assert (sae.preactivations(x_BD)[:, dead_F] > 0).any(0).all()
    if architecture != "vsae_topk":  # there a weak latent has to win by the auxiliary loss first
        assert sae.loss(x_BD, 1.0).fired_F[dead_F].all()
    assert torch.equal(sae.log_variance[:4], torch.full((4,), sae._initial_log_variance))
    for name, axis in sae.latent_axes().items():
        moment = optimiser.state[sae.get_parameter(name)]["exp_avg"].movedim(axis, 0)
        assert (moment[dead_F] == 0).all()
        assert (moment[~dead_F] != 0).any(), name
    parameters = {name for name, parameter in sae.named_parameters() if 24 in parameter.shape}
    assert parameters == set(sae.latent_axes())


@pytest.mark.parametrize("architecture", ALL)
def test_collapsed_latents_are_counted(architecture):
    """The first two latents copy the prior on every token; of the others nobody does."""
    sae = saes.create(architecture, d_in=4, d_sae=8, **ALL[architecture])
    x_BD = rows(500, 4).float()
    with torch.no_grad():
        sae.log_variance.fill_(-4.0)
        sae.W_enc[:, :2] = 0.0
        if architecture == "vsae_spike_slab":
            variance = sae.config.prior_variance
            sae.b_enc[:2] = sae.config.slab_mean * math.sqrt(variance)
            sae.log_variance[:2] = math.log(variance)
            logit = math.log(sae.config.alpha / (1 - sae.config.alpha))
            sae.gate_threshold[:2] = sae.b_enc[:2] - logit
        elif architecture == "vsae_rectified":
            variance = sae.config.prior_variance
            sae.log_variance[:2] = math.log(variance)
            sae.b_enc[:2] = math.sqrt(variance) * torch.special.ndtri(torch.tensor(sae.config.alpha))
        elif architecture == "vsae_laplace":
            # the closest that a normal distribution comes to a Laplace one
            sae.log_variance[:2] = math.log(math.pi / 2) + 2 * math.log(sae.prior_scale())
            least = math.log(2) + 1 - 0.5 * math.log(math.pi**2 * math.e)
            assert sae.posterior(x_BD)[0].kl_F[:2].tolist() == pytest.approx([least] * 2, abs=1e-6)
        else:
            sae.b_enc[:2] = -100.0
    sae.calibrate(x_BD)
    assert sae.metrics()["collapsed_fraction"] == 2 / 8
