from __future__ import annotations

import pytest
import torch
from hand_cases import gradients, identity, rows, train
from torch.distributions import Normal, kl_divergence

import vsae_search.saes as saes


@pytest.mark.parametrize(("scope", "ridge"), [("all", 9.0 + 4.0 + 1.0), ("winners", 9.0 + 1.0)])
def test_two_latents_by_hand(scope, ridge):
    sae = identity("topk_ridge", k=1, ridge_coefficient=0.5, ridge_scope=scope)
    # pre-activations (3, 2) and (1, -1); winners 3 and 1; errors (0, -2) and (0, 1)
    loss = sae.loss(torch.tensor([[3.0, 2.0], [1.0, -1.0]]), 1.0)
    assert loss.reconstruction.item() == pytest.approx((4 + 1) / 2)
    assert loss.penalties["ridge"].item() == pytest.approx(0.5 * ridge / 2)
    assert loss.fired_F.tolist() == [True, False]
    sae.penalty_warmup_fraction = 0.5
    assert sae.loss(torch.tensor([[3.0, 2.0], [1.0, -1.0]]), 0.25).penalties["ridge"].item() == pytest.approx(ridge / 8)


def test_it_is_the_divergence_of_a_posterior_of_unit_variance():
    sae, x_BD = saes.create("topk_ridge", d_in=4, d_sae=12, k=3, ridge_coefficient=0.5 * 0.8), rows(50, 4)
    posterior = Normal(sae.preactivations(x_BD).relu(), 1.0)
    nats = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(sae.loss(x_BD, 1.0).penalties["ridge"], 0.8 * nats)


def test_only_scope_all_pulls_on_latents_that_lose():
    for scope in ("all", "winners"):
        sae = identity("topk_ridge", k=1, ridge_scope=scope)
        found = gradients(sae, sae.loss(torch.tensor([[3.0, 2.0]]), 1.0).penalties["ridge"])
        assert (found["b_enc"][1].item() > 0) == (scope == "all")
        assert found["b_enc"][0].item() > 0


def test_without_ridge_it_is_topk():
    params = {"d_in": 4, "d_sae": 16, "k": 2, "seed": 5}
    plain, ridge = saes.create("topk", **params), saes.create("topk_ridge", ridge_coefficient=0.0, **params)
    x_BD = rows(64, 4)
    for sae in (plain, ridge):
        sae.mark_dead(torch.arange(16) < 3)
    assert torch.equal(plain.encode(x_BD), ridge.encode(x_BD))
    torch.testing.assert_close(plain.loss(x_BD, 1.0).total, ridge.loss(x_BD, 1.0).total)
    assert ridge.loss(x_BD, 1.0).penalties["auxk"].item() > 0


def test_the_code_shrinks():
    norms = []
    for coefficient in (0.0, 1.0):
        sae = saes.create("topk_ridge", d_in=8, d_sae=16, k=3, ridge_coefficient=coefficient, lr=1e-2)
        train(sae, 100)
        norms.append(sae.encode(rows(500, 8, seed=10_000)).norm(dim=1).mean().item())
    assert norms[1] < 0.8 * norms[0]
    assert sae.canonical().activation == "topk"
