from __future__ import annotations

import copy

import pytest
import torch
from hand_cases import difference_quotients, identity, rows, sparse_rows, train

import vsae_search.saes as saes
from vsae_search.saes.p_anneal import POWER_FLOOR, power_mass


def test_two_latents_by_hand():
    sae = identity("p_anneal", l1_coefficient=2.0, p_end=0.5, anneal_start=0.2, anneal_updates=1)
    x_BD = torch.tensor([[4.0, 0.25], [1.0, -1.0]])
    # codes (4, 0.25) and (1, 0), error (0, 0) and (0, 1); Σ f = 5.25, Σ √f = 2 + 0.5 + 1 = 3.5
    before = sae.loss(x_BD, 0.1)
    assert before.reconstruction.item() == pytest.approx(0.5)
    assert before.penalties["lp"].item() == pytest.approx(2.0 * 5.25 / 2)
    after = sae.loss(x_BD, 0.2)
    assert after.penalties["lp"].item() == pytest.approx(2.0 * 5.25 / 2)
    assert sae.penalty_scale.item() == pytest.approx(5.25 / 3.5)
    other = sae.loss(torch.tensor([[9.0, 0.0]]), 0.7)
    assert other.penalties["lp"].item() == pytest.approx(2.0 * 1.5 * 3.0)
    assert other.fired_F.tolist() == [True, False]


def test_exponent_falls_in_equal_steps():
    sae = saes.create("p_anneal", d_in=2, d_sae=2, p_end=0.2, anneal_start=0.2, anneal_updates=4)
    seen = [sae.exponent_at(progress) for progress in (0.0, 0.19, 0.2, 0.39, 0.4, 0.6, 0.79, 0.8, 0.99, 1.0)]
    assert seen == pytest.approx([1, 1, 0.8, 0.8, 0.6, 0.4, 0.4, 0.2, 0.2, 0.2])
    late = saes.create("p_anneal", d_in=2, d_sae=2, p_end=0.2, anneal_start=0.0, anneal_updates=10)
    assert [late.exponent_at(step / 10) for step in range(10)] == pytest.approx([1 - 0.08 * n for n in range(1, 11)])


def test_penalty_of_a_batch_does_not_jump_when_the_exponent_changes():
    sae = saes.create("p_anneal", d_in=6, d_sae=20, anneal_start=0.1, anneal_updates=7)
    edges = [0.1 + 0.9 * update / 7 for update in range(7)]
    exponents = []
    for index, edge in enumerate(edges):
        x_BD = rows(200, 6, seed=index)
        before = sae.loss(x_BD, edge - 0.01)
        after = sae.loss(x_BD, edge + 0.01)
        exponents.append(sae.exponent.item())
        assert after.penalties["lp"].item() == pytest.approx(before.penalties["lp"].item(), rel=1e-5)
        assert after.total.item() == pytest.approx(before.total.item(), rel=1e-5)
    assert exponents == pytest.approx([1 - 0.8 * n / 7 for n in range(1, 8)])
    fresh = rows(200, 6, seed=99)
    expected = sae.penalty_scale * 0.5 * sae.encode(fresh).pow(0.2).where(sae.encode(fresh) > 0, 0.0).sum(1).mean()
    assert sae.loss(fresh, 1.0).penalties["lp"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_scale_changes_only_with_the_exponent():
    sae = saes.create("p_anneal", d_in=6, d_sae=20, anneal_start=0.1, anneal_updates=2)
    sae.loss(rows(50, 6), 0.2)
    scale = sae.penalty_scale.clone()
    for progress in (0.2, 0.3, 0.5):
        sae.loss(rows(50, 6, seed=5), progress)
        assert torch.equal(sae.penalty_scale, scale)
    sae.loss(rows(50, 6, seed=5), 0.6)
    assert not torch.equal(sae.penalty_scale, scale)


def test_a_batch_without_firing_latents_leaves_the_scale_alone():
    sae = identity("p_anneal", anneal_start=0.0, anneal_updates=1)
    loss = sae.loss(-torch.ones(3, 2), 0.5)
    assert loss.penalties["lp"].item() == 0.0
    assert sae.penalty_scale.item() == 1.0
    assert sae.exponent.item() == pytest.approx(0.2)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.93])
def test_power_mass_has_the_value_and_slope_of_a_power(p):
    f_BF = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01
    f_BF.requires_grad_()
    torch.testing.assert_close(power_mass(f_BF, p), f_BF.pow(p).sum(0))
    (slope,) = torch.autograd.grad(power_mass(f_BF, p).sum(), f_BF)
    torch.testing.assert_close(slope, difference_quotients(lambda: power_mass(f_BF, p).sum().detach(), f_BF))


def test_the_floor_is_in_the_penalty_only_and_zeros_cost_nothing():
    f_BF = torch.tensor([[0.0, 1e-9, POWER_FLOOR, 1e-4]], dtype=torch.float64, requires_grad=True)
    mass_F = power_mass(f_BF, 0.2)
    assert mass_F[0].item() == 0.0
    assert (mass_F[1:] > 0).all()
    (slope_BF,) = torch.autograd.grad(mass_F.sum(), f_BF)
    steepest = 0.2 * POWER_FLOOR**-0.8
    assert slope_BF[0].tolist() == pytest.approx([steepest, steepest, steepest, 0.2 * 1e-4**-0.8])
    sae = identity("p_anneal")
    assert sae.encode(torch.tensor([[1e-9, -1.0]])).tolist() == [[pytest.approx(1e-9), 0.0]]


def test_a_resumed_training_goes_on_bit_for_bit():
    first = saes.create("p_anneal", d_in=6, d_sae=20, lr=1e-2, anneal_start=0.1, anneal_updates=3)
    train(first, 20)
    assert first.penalty_scale.item() != 1.0
    second = saes.create("p_anneal", d_in=6, d_sae=20, lr=1e-2, anneal_start=0.1, anneal_updates=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    x_BD = rows(64, 6)
    assert torch.equal(first.loss(x_BD, 0.95).total, second.loss(x_BD, 0.95).total)
    assert torch.equal(first.penalty_scale, second.penalty_scale)


def test_without_annealing_it_is_the_l1_autoencoder():
    params = {"d_in": 5, "d_sae": 9, "l1_coefficient": 0.7, "seed": 3}
    relu, annealed = saes.create("relu", **params), saes.create("p_anneal", p_end=1.0, **params)
    x_BD = rows(30, 5)
    for progress in (0.0, 0.5, 1.0):
        assert torch.equal(relu.loss(x_BD, progress).total, annealed.loss(x_BD, progress).total)


def test_annealing_trades_many_small_codes_for_few_large_ones():
    l0, error = [], []
    for p_end in (1.0, 0.2):
        sae = saes.create("p_anneal", d_in=8, d_sae=24, lr=1e-2, p_end=p_end, l1_coefficient=0.3)
        train(sae, 300, draw=sparse_rows)
        x_BD = sparse_rows(2000, 8, seed=10_000)
        l0.append((sae.encode(x_BD) > 0).sum(1).double().mean().item())
        error.append((sae(x_BD) - x_BD).square().sum(1).mean().item())
    assert l0[1] < 0.85 * l0[0]
    assert error[1] < 1.25 * error[0]


def test_resampling_is_inherited():
    assert saes.create("p_anneal", d_in=2, d_sae=2).resample_at() == ()
    assert saes.create("p_anneal", d_in=2, d_sae=2, resample_dead=True).resample_at() == (0.25, 0.5)
