"""What was wrong in the first published VSAE code, checked on the objectives that are used by default."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.saes._cofiring import LatentSet, Partners, match_sets, update_partners

PARAMS = {
    "vsae_iso": {"kl_coefficient": 0.2},
    "vsae_mix": {"prior_l0": 2.0, "observation_variance": 0.1},
    "vsae_multi": {"kl_coefficient": 0.2, "rank": 3, "shared_variance": 0.5},
}
every = pytest.mark.parametrize("name", list(PARAMS))


def make(name, d_in=4, d_sae=12, **params):
    sae = saes.create(name, d_in=d_in, d_sae=d_sae, **PARAMS[name] | params)
    if name == "vsae_mix":
        sae._store_sets([LatentSet("correlated", (1, 4)), LatentSet("anticorrelated", (0, 2, 5))])
    return sae.double()


def rows(num_rows, d_in=4, seed=5):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every
def test_1_the_divergence_does_not_grow_with_the_batch(name):
    sae, x_BD = make(name), rows(8)
    torch.testing.assert_close(sae.loss(x_BD.repeat(16, 1), 1.0).penalties["kl"], sae.loss(x_BD, 1.0).penalties["kl"])


def test_1_the_same_coefficient_means_the_same_in_iso_and_multi():
    iso, multi = make("vsae_iso"), make("vsae_multi", shared_variance=0.0, learn_covariance=False)
    x_BD = rows(64)
    torch.testing.assert_close(iso.loss(x_BD, 1.0).penalties["kl"], multi.loss(x_BD, 1.0).penalties["kl"])


@every
def test_2_a_fixed_variance_is_not_sampled_and_costs_what_it_should(name):
    sae, x_BD = make(name, learn_sigma=False), rows(8)
    before = torch.get_rng_state()
    losses = [sae.loss(x_BD, progress) for progress in (0.8, 0.8, 0.9)]
    assert losses[0].total == losses[1].total == losses[2].total
    assert torch.equal(torch.get_rng_state(), before)
    assert not sae.log_variance.requires_grad
    # noise of variance 1 on unit rows would cost 12, one per latent
    assert losses[0].penalties["variance"].item() < 0.5 * 12
    if name != "vsae_mix":
        expected = sae.log_variance.exp().sum().item()
        assert losses[0].penalties["variance"].item() == pytest.approx(expected)


@every
def test_3_the_posterior_is_narrower_than_the_prior_and_its_gradient_lives_everywhere(name):
    sae, x_BD = make(name), rows(16)
    assert (sae.log_variance < 0).all()
    for value in (-7.0, -3.0, 0.0, 2.5):
        sae.zero_grad()
        with torch.no_grad():
            sae.log_variance.fill_(value)
        sae.loss(x_BD, 1.0).total.backward()
        assert (sae.log_variance.grad.abs() > 1e-6).all(), value


def nats_of_gates(sae, latents, gates):
    """Divergence when the gates of two latents have given probabilities and all others the prior's."""
    alpha = sae.config.alpha
    logit_F = torch.full((1, sae.config.d_sae), math.log(alpha / (1 - alpha)), dtype=torch.float64)
    for latent, gate in zip(latents, gates, strict=True):
        logit_F[0, latent] = math.log(gate / (1 - gate))
    gamma_F = logit_F.sigmoid()
    independent_F = gamma_F * (gamma_F / alpha).log() + (1 - gamma_F) * ((1 - gamma_F) / (1 - alpha)).log()
    return sae._with_sets(independent_F[0], logit_F).sum().item()


def test_4_anticorrelation_is_joint_mass_not_means_of_opposite_sign():
    sae = make("vsae_mix")
    on, off = 1 - 1e-6, 1e-6
    first, second = nats_of_gates(sae, (0, 2), (on, off)), nats_of_gates(sae, (0, 2), (off, on))
    assert first == pytest.approx(second)  # neither latent is pushed to 0 for being the second
    both = nats_of_gates(sae, (0, 2), (on, on))
    assert both > first + 3
    apart = nats_of_gates(sae, (0, 3), (on, on))  # 3 is in no set
    assert both > apart + 1


def test_5_the_prior_does_not_factorise():
    sae = make("vsae_mix")
    on, off = 1 - 1e-6, 1e-6
    # of independent latents the second would cost the same whatever the first does
    alone = nats_of_gates(sae, (1, 4), (on, off)) - nats_of_gates(sae, (1, 4), (off, off))
    second = nats_of_gates(sae, (1, 4), (on, on)) - nats_of_gates(sae, (1, 4), (on, off))
    assert alone > 1
    assert second < -1


def test_6_no_index_is_special_before_training():
    sae = saes.create("vsae_mix", d_in=4, d_sae=12, prior_l0=2.0)
    assert sae.sets() == []
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    fires = torch.rand(4000, 12, generator=torch.Generator().manual_seed(1)) < 0.1
    fires[:, 9] = fires[:, 2]

    def learn(fires_NF):
        partners = update_partners(Partners.none(12, 4), fires_NF, 0.5)
        return match_sets(partners, alpha=0.1, max_size=4, min_scores=(0.3, 0.8))

    place = order.argsort().tolist()
    assert learn(fires) == [LatentSet("correlated", (2, 9))]
    assert learn(fires[:, order]) == [LatentSet("correlated", tuple(sorted((place[2], place[9]))))]


def test_6_a_learned_covariance_treats_latents_alike():
    sae, order = make("vsae_multi"), torch.tensor([3, 0, 7, 11, 5, 1, 2, 10, 4, 9, 8, 6])
    mu_BF = rows(6, d_in=12).relu()
    before = sae.divergence(mu_BF)[0]
    with torch.no_grad():
        sae.factors.copy_(sae.factors[order])
        sae.log_variance.copy_(sae.log_variance[order])
    torch.testing.assert_close(sae.divergence(mu_BF[:, order])[0], before)


@every
def test_7_the_divergence_is_the_mean_of_that_of_each_token(name):
    sae, x_BD = make(name), rows(10)
    each = torch.stack([sae.loss(row_D[None], 1.0).penalties["kl"] for row_D in x_BD])
    together = sae.loss(x_BD, 1.0).penalties["kl"]
    torch.testing.assert_close(together, each.mean())
    assert (each > 0).all()  # without a floor that would hide a wrong one


@pytest.mark.parametrize("name", ["vsae_iso", "vsae_multi"])
def test_7_means_of_opposite_deviation_do_not_cancel(name):
    sae = make(name)
    mu_F = rows(1, d_in=12)[0]
    swings_BF = torch.stack([mu_F, -mu_F])
    assert sae.divergence(swings_BF)[0] > sae.divergence(swings_BF.mean(0, keepdim=True))[0] + 0.1


class LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@every
def test_8_memory_is_linear_in_the_number_of_latents(name):
    sae = saes.create(name, d_in=4, d_sae=8192, **PARAMS[name])
    x_BD = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        sae.loss(x_BD, 1.0).total.backward()
        sae.before_step()
        sae.after_step()
    assert largest.numel <= 2 * 16_384 * 4 + 16 * 8192 < 8192**2 / 100


@pytest.mark.parametrize("name", ["vsae_iso", "vsae_multi"])
def test_9_the_divergence_is_a_sum_over_latents(name):
    # twice the latents, with the same posteriors and the same prior: twice the divergence
    params = {} if name == "vsae_iso" else {"covariance": "block", "block_size": 4}
    one, two = make(name, **params), make(name, d_sae=24, **params)
    mu_BF = rows(6, d_in=12).relu()
    torch.testing.assert_close(two.divergence(mu_BF.repeat(1, 2))[0], 2 * one.divergence(mu_BF)[0])


def test_9_the_divergence_of_gates_is_a_sum_over_latents():
    one, two = make("vsae_mix"), make("vsae_mix", d_sae=24, prior_l0=4.0, prior_scale=2.0)
    sets = one.sets()
    two._store_sets(sets + [LatentSet(kind, tuple(latent + 12 for latent in members)) for kind, members in sets])
    with torch.no_grad():
        for parameter in ("W_enc", "W_dec"):
            axis = one.latent_axes()[parameter]
            two.get_parameter(parameter).copy_(torch.cat([one.get_parameter(parameter)] * 2, dim=axis))
        two.gate_threshold.copy_(one.gate_threshold.repeat(2))
        two.log_variance.copy_(one.log_variance.repeat(2))
    x_BD = rows(6)
    torch.testing.assert_close(two.loss(x_BD, 1.0).penalties["kl"], 2 * one.loss(x_BD, 1.0).penalties["kl"])


@every
@pytest.mark.parametrize("legacy", [False, True])
def test_11_l0_is_counted_on_a_deterministic_code(name, legacy):
    sae, x_BD = make(name, d_sae=64, legacy_seed=legacy), rows(100)
    f_BF = sae.encode(x_BD)
    assert torch.equal(f_BF, sae.encode(x_BD))
    l0 = (f_BF > 0).sum(1).double().mean().item()
    assert l0 < 0.7 * 64  # a sampled Gaussian code would give 64
    with torch.no_grad():
        sae.b_enc[:5] = -1e3
    assert not sae.loss(x_BD, 1.0).fired_F[:5].any()  # dead latents are seen to be dead


@every
def test_13_codes_are_exactly_0_and_not_cut_off_above(name):
    sae, x_BD = make(name), rows(50)
    f_BF = sae.encode(x_BD)
    assert (f_BF == 0).any(1).all()
    assert (f_BF >= 0).all()
    far_BD = 1e3 * x_BD
    large_BF = sae.encode(far_BD)
    assert large_BF.max() > 1e3
    sae.loss(far_BD, 1.0).total.backward()
    fired_F = (large_BF > 0).any(0)
    assert (sae.W_enc.grad.abs().sum(0)[fired_F] > 0).all()
