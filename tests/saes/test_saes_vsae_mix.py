from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes._cofiring import LatentSet
from vsae_search.space import TrainingSpec
from vsae_search.training import fit

PRIOR = {"prior_l0": 2.0, "observation_variance": 0.1}
PAIRS = [LatentSet("correlated", (1, 4)), LatentSet("anticorrelated", (0, 2, 5))]


def make(name="vsae_mix", d_in=4, d_sae=20, **params):
    return saes.create(name, d_in=d_in, d_sae=d_sae, **PRIOR | params)


def rows(num_rows, d_in=4, seed=5):
    return torch.randn(num_rows, d_in, generator=torch.Generator().manual_seed(seed))


def with_sets(sets=PAIRS, **params):
    sae = make(**params)
    sae._store_sets(sets)
    return sae


def presence_nats(gamma_M, kind, alpha, smoothing):
    """KL of the gates of a set from their joint prior, by enumeration."""
    total = 0.0
    for state in itertools.product([0, 1], repeat=len(gamma_M)):
        q = math.prod(g if on else 1 - g for g, on in zip(gamma_M, state, strict=True))
        base = math.prod(alpha if on else 1 - alpha for on in state)
        if kind == "correlated":
            structured = {0: 1 - alpha, len(state): alpha}.get(sum(state), 0.0)
        else:
            structured = {0: 1 - len(state) * alpha, 1: alpha}.get(sum(state), 0.0)
        total += q * math.log(q / ((1 - smoothing) * structured + smoothing * base))
    return total


def test_divergence_is_that_of_the_joint_prior():
    sae, x_BD = with_sets(smoothing=0.1).double(), rows(3).double()
    alpha, variance = sae.config.alpha, sae.config.prior_variance
    pre_BF = sae.preactivations(x_BD).detach()
    gamma_BF, mu_BF, s2 = sae.presence(x_BD).detach(), pre_BF.relu(), sae.log_variance.exp().detach()
    slab_BF = 0.5 * ((s2 + mu_BF**2) / variance - 1 - (s2 / variance).log())
    wanted = (gamma_BF * slab_BF).sum().item()
    for gamma_F in gamma_BF.tolist():
        for group in [*PAIRS, *(LatentSet("correlated", (i,)) for i in range(20) if i not in {0, 1, 2, 4, 5})]:
            members = [gamma_F[latent] for latent in group.members]
            # a set of one with the independent prior is a plain gate
            smoothing = 0.1 if len(members) > 1 else 1.0
            wanted += presence_nats(members, group.kind, alpha, smoothing)
    kl = sae.loss(x_BD, 1.0).penalties["kl"].item()
    assert kl == pytest.approx(2 * 0.1 * wanted / 3, rel=1e-9)
    sae.calibrate(x_BD)
    assert sae.metrics()["kl_nats"] == pytest.approx(wanted / 3, rel=1e-9)


@pytest.mark.parametrize("params", [{"sets_from": "none"}, {"smoothing": 1.0}, {}])
def test_without_structure_it_is_spike_and_slab(params):
    sets = PAIRS if params == {"smoothing": 1.0} else []
    mix, plain, x_BD = with_sets(sets, **params).double(), make("vsae_spike_slab").double(), rows(9).double()
    losses = [sae.loss(x_BD, 0.7) for sae in (mix, plain)]
    for name, term in losses[1].penalties.items():
        torch.testing.assert_close(losses[0].penalties[name], term)
    assert torch.equal(losses[0].fired_F, losses[1].fired_F)
    for loss in losses:
        loss.total.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(mix.get_parameter(name).grad, parameter.grad)
    assert torch.equal(mix.encode(x_BD), plain.encode(x_BD))


def test_gradient_with_sets_equals_finite_differences():
    sae = with_sets([LatentSet("correlated", (1, 4)), LatentSet("anticorrelated", (0, 2))], d_in=3, d_sae=6).double()
    x_BD = rows(5, d_in=3).double()
    sae.loss(x_BD, 1.0).total.backward()
    for parameter in (sae.W_enc, sae.b_enc, sae.gate_threshold, sae.log_gate_gain, sae.W_dec):
        flat, width = parameter.data.view(-1), 1e-6
        for index in range(0, len(flat), 2):
            start, values = flat[index].item(), []
            for shift in (width, -width):
                flat[index] = start + shift
                values.append(sae.loss(x_BD, 1.0).total.item())
            flat[index] = start
            slope = (values[0] - values[1]) / (2 * width)
            assert parameter.grad.view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


# -- learning sets ------------------------------------------------------------------------------------------------


def planted_rows(num_rows, seed=0):
    """Activations on the axes: 0 and 3 mostly together, 1, 2 and 5 in turns; and the features."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(num_rows, 8, generator=generator) < 0.1
    on[:, 3] = torch.where(torch.rand(num_rows, generator=generator) < 0.7, on[:, 0], on[:, 3])
    turn = torch.rand(num_rows, generator=generator)
    for place, feature in enumerate((1, 2, 5)):
        on[:, feature] = (turn >= 0.1 * place) & (turn < 0.1 * (place + 1))
    x_BD = on * (0.5 + torch.rand(num_rows, 8, generator=generator))
    return x_BD * (8 / x_BD.square().sum(1).mean()).sqrt()


PLANTED = [("correlated", (0, 3)), ("anticorrelated", (1, 2, 5)), ("hierarchical", (4, 6))]


def planted_sae(order=range(8), **params):
    """Latent ``order[i]`` reads and writes axis ``i``; the rest read nothing."""
    sae = make(d_in=8, d_sae=12, prior_l0=1.0, **params)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[range(8), list(order)] = 1.0
        sae.b_enc.zero_()
        sae.gate_threshold.fill_(0.1)
        sae.W_dec[list(order)] = torch.eye(8)
    sae.initialised = True
    return sae


def remembered(sae, x_BD):
    for batch_BD in x_BD.split(500):
        sae._remember(batch_BD)
    sae.refresh_sets()
    return sae


@pytest.mark.parametrize("order", [range(8), (5, 11, 0, 7, 2, 9, 1, 4)])
def test_sets_follow_firing_not_index(order):
    sae = remembered(planted_sae(order), planted_rows(10_000))
    assert sae.sets() == [
        LatentSet("correlated", tuple(sorted(order[feature] for feature in (0, 3)))),
        LatentSet("anticorrelated", tuple(sorted(order[feature] for feature in (1, 2, 5)))),
    ]


def test_rows_are_kept_in_a_ring():
    sae, x_BD = make(cofiring_rows=256), rows(700)
    for batch_BD in x_BD.split(100):
        sae._remember(batch_BD)
    assert int(sae.rows_seen) == 700
    wanted = {tuple(row) for row in x_BD[-256:].tolist()}
    assert {tuple(row) for row in sae.recent_rows.tolist()} == wanted
    sae._remember(rows(1000, seed=1))
    assert {tuple(row) for row in sae.recent_rows.tolist()} == {
        tuple(row) for row in rows(1000, seed=1)[-256:].tolist()
    }


def trained(directory=None, *, stop_at=None, **params):
    sae = make(d_in=8, d_sae=12, prior_l0=1.0, seed=3, lr=3e-3, refresh_fraction=0.1, cofiring_rows=2048, **params)
    x_BD, seen = planted_rows(100 * 256), []

    def on_rung(rung):
        seen.append((rung.step, sae.sets()))
        if rung.index == stop_at:
            raise InterruptedError

    spec = TrainingSpec(num_tokens=len(x_BD), batch_size=256)
    try:
        fit(sae, iter(x_BD.split(256)), spec, on_rung=on_rung, checkpoint=directory)
    except InterruptedError:
        return trained(directory, **params)
    return sae, seen


def test_sets_are_learned_in_training_deterministically_and_frozen_half_way(tmp_path):
    (first, seen), (second, _) = trained(), trained()
    assert first.sets()
    assert first.sets() == second.sets()
    assert torch.equal(first.W_dec, second.W_dec)
    assert dict(seen)[50] == dict(seen)[100]
    assert int(first.refreshes) == 4  # at 10, 20, 30 and 40 % of training
    first.calibrate(planted_rows(500))
    metrics = first.metrics()
    assert metrics["correlated_sets"] + metrics["anticorrelated_sets"] == len(first.sets())
    assert metrics["latents_in_sets"] == sum(len(group.members) for group in first.sets())
    # an interruption does not change the outcome, though what sets are learned from is not part of the weights
    resumed, _ = trained(tmp_path, stop_at=0)
    assert torch.equal(resumed.W_dec, first.W_dec)
    assert resumed.sets() == first.sets()


def test_sets_are_stored_and_what_they_were_learned_from_is_not(tmp_path):
    sae = remembered(planted_sae(), planted_rows(10_000))
    saes.save(sae, tmp_path)
    loaded = saes.load(tmp_path)
    assert loaded.sets() == sae.sets() != []
    assert loaded.loss(rows(4, d_in=8), 1.0).total == sae.loss(rows(4, d_in=8), 1.0).total
    assert not {"recent_rows", "partner_score"} & sae.state_dict().keys()


def test_loading_other_weights_replaces_the_sets_in_use():
    sae, other, x_BD = with_sets(), with_sets([]), rows(4)
    before = sae.loss(x_BD, 1.0).total
    other.loss(x_BD, 1.0)
    other.load_state_dict(sae.state_dict())
    assert other.loss(x_BD, 1.0).total == before


def test_a_loss_that_is_not_followed_by_a_step_teaches_nothing():
    sae = make()
    sae.loss(rows(50), 0.1)
    assert int(sae.rows_seen) == 0
    sae.after_step()
    sae.after_step()
    assert int(sae.rows_seen) == 50
    with torch.no_grad():
        sae.loss(rows(50), 0.1)
    sae.after_step()
    assert int(sae.rows_seen) == 50
    sae.loss(rows(50), 0.5)
    sae.after_step()
    assert int(sae.rows_seen) == 50, "frozen"


def test_replaced_latents_have_no_partners():
    sae = remembered(planted_sae(), planted_rows(10_000))
    sae.replace_latents(torch.tensor([3]), torch.eye(8)[3:4], torch.ones(12, dtype=torch.bool))
    assert (sae.partner_score[:, 3] == -math.inf).all()
    assert not ((sae.partner_index == 3) & sae.partner_score.isfinite()).any()


# -- the oracle control -------------------------------------------------------------------------------------------


def test_the_oracle_gives_the_true_sets_to_the_latents_that_stand_for_them():
    order = (5, 11, 0, 7, 2, 9, 1, 4)
    sae = planted_sae(order, sets_from="oracle")
    before = sae.loss(planted_rows(64), 1.0).penalties["kl"].item()
    sae.assign_sets(torch.eye(8), PLANTED)
    assert sae.sets() == [LatentSet("correlated", (5, 7)), LatentSet("anticorrelated", (11, 0, 9))]
    after = sae.loss(planted_rows(64), 1.0).penalties["kl"].item()
    assert abs(after - before) > 1e-3


def test_the_oracle_follows_latents_that_change_places():
    sae = planted_sae(sets_from="oracle", refresh_fraction=0.1)
    sae.assign_sets(torch.eye(8), PLANTED)
    with torch.no_grad():
        sae.W_dec[[0, 6]] = sae.W_dec[[6, 0]]
    sae.loss(planted_rows(64), 0.05)
    sae.after_step()
    assert sae.sets()[0].members == (0, 3), "no refresh is due"
    sae.loss(planted_rows(64), 0.11)
    sae.after_step()
    assert sae.sets()[0].members == (6, 3)


def test_a_true_set_is_split_where_it_is_too_large_and_left_out_where_nothing_stands_for_it():
    sae = planted_sae(sets_from="oracle", set_size=2)
    sae.assign_sets(torch.eye(8), [("anticorrelated", (0, 1, 2, 3, 4))])
    assert [group.members for group in sae.sets()] == [(0, 1), (2, 3)]
    directions = torch.eye(8)
    directions[1] = 0.0
    sae.assign_sets(directions, [("correlated", (0, 1))])
    assert sae.sets() == []


def test_wrong_use_of_the_oracle_is_refused():
    with pytest.raises(UserInputError, match="cofiring"):
        make().assign_sets(torch.eye(4), [])
    sae = make(sets_from="oracle")
    with pytest.raises(UserInputError, match="no direction"):
        sae.assign_sets(torch.eye(4), [("correlated", (0, 4))])
    sae.loss(rows(4), 0.0).total.backward()
    with pytest.raises(UserInputError, match="true sets"):
        sae.before_step()
    sae.assign_sets(torch.eye(4), [])
    sae.before_step()


def test_it_can_be_copied():
    sae = with_sets()
    sae.loss(rows(4), 0.2)
    assert copy.deepcopy(sae).sets() == sae.sets()
