from __future__ import annotations

import pytest
import torch
from hand_cases import identity, rows

import vsae_search.saes as saes
from vsae_search.space import TrainingSpec
from vsae_search.training import fit


def solved(x_BD, **params):
    sae = saes.create("random_dictionary", d_in=x_BD.shape[1], d_sae=30, **{"k": 4} | params)
    sae.initialise(x_BD)
    for batch_BD in x_BD.split(100):
        sae.observe(batch_BD)
    sae.solve()
    return sae


def test_two_latents_by_hand():
    sae = identity("random_dictionary", k=2)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    # x = (1, 0): projections 1 and 0.8, sum (1.64, 0.48); best gain 1.64 / (1.64² + 0.48²)
    sae.observe(torch.tensor([[1.0, 0.0]]))
    sae.solve()
    gain = 1.64 / (1.64**2 + 0.48**2)
    assert sae.encode(torch.tensor([[1.0, 0.0]])).tolist() == [[pytest.approx(gain), pytest.approx(0.8 * gain)]]


def test_directions_are_a_function_of_the_seed_and_stay():
    x_BD = rows(500, 6)
    sae, fresh = solved(x_BD, seed=3), saes.create("random_dictionary", d_in=6, d_sae=30, k=4, seed=3)
    assert torch.equal(sae.W_dec, fresh.W_dec)
    assert not torch.equal(sae.W_dec, solved(x_BD, seed=4).W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(30))


def test_no_other_gain_is_better():
    x_BD = rows(500, 6) + 2.0
    sae = solved(x_BD)
    best = sae.loss(x_BD, 1.0).total.item()
    for factor in (0.98, 1.02):
        other = solved(x_BD)
        with torch.no_grad():
            other.W_enc *= factor
        assert other.loss(x_BD, 1.0).total.item() > best
    ratio = sae.W_enc.T / sae.W_dec
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio).contiguous())
    assert ratio[0, 0].item() > 0


def test_observing_goes_on_after_solving():
    x_BD = rows(600, 6)
    whole, pieces = solved(x_BD), saes.create("random_dictionary", d_in=6, d_sae=30, k=4)
    pieces.initialise(x_BD)
    for batch_BD in x_BD.split(200):
        pieces.observe(batch_BD)
        pieces.solve()
    torch.testing.assert_close(pieces.W_enc, whole.W_enc)


def test_rows_without_a_firing_latent_leave_the_gain_at_one():
    sae = saes.create("random_dictionary", d_in=6, d_sae=30, k=4)
    sae.observe(torch.zeros(5, 6))
    sae.solve()
    assert torch.equal(sae.W_enc, sae.W_dec.T)


def test_fit_needs_no_gradient():
    sae, losses = saes.create("random_dictionary", d_in=6, d_sae=30, k=4), []
    spec = TrainingSpec(num_tokens=20 * 64, batch_size=64)
    fit(sae, iter(rows(20 * 64, 6).split(64)), spec, on_rung=lambda rung: losses.append(rung.losses))
    assert set(losses[-1]) == {"total", "reconstruction"}
    assert not sae.trained_by_gradient
    assert sae.declared_l0() == 4
    assert sae.canonical().activation == "topk"
