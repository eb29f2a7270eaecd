from __future__ import annotations

import math

import pytest
import torch
from hand_cases import difference_quotients, gradients, identity, rows, set_rows

import vsae_search.saes as saes


def gated(dtype=torch.float64, **params):
    sae = saes.create("gated", d_in=3, d_sae=6, **params).to(dtype)
    set_rows(sae.b_enc, torch.linspace(-0.4, 0.6, 6))
    set_rows(sae.r_mag, torch.linspace(-0.7, 0.5, 6))
    set_rows(sae.b_mag, torch.linspace(0.5, -0.5, 6))
    set_rows(sae.b_dec, [0.2, -0.1, 0.3])
    return sae


def paper_terms(sae, x_BD, W_dec_FD, b_dec_D):
    """The three terms written out; the decoder of the auxiliary loss is the constant ``W_dec_FD, b_dec_D``."""
    pre_BF = (x_BD - sae.b_dec) @ sae.W_enc
    gate_BF, magnitude_BF = pre_BF + sae.b_enc, pre_BF * sae.r_mag.exp() + sae.b_mag
    f_BF = (gate_BF > 0) * magnitude_BF.relu()
    main = (x_BD - f_BF @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    l1 = gate_BF.relu().sum(1).mean()
    via_gate_BF = ((x_BD - b_dec_D) @ sae.W_enc + sae.b_enc).relu()
    auxiliary = (x_BD - via_gate_BF @ W_dec_FD - b_dec_D).square().sum(1).mean()
    return main, l1, auxiliary


def test_two_latents_by_hand():
    sae = identity("gated", l1_coefficient=2.0)
    set_rows(sae.b_enc, [0.0, -1.0])
    set_rows(sae.r_mag, [math.log(2.0), 0.0])
    set_rows(sae.b_mag, [-1.0, 0.5])
    # u = (1, 0.5): gates (1, -0.5), magnitudes (2 - 1, 0.5 + 0.5); the second gate is shut in spite of its magnitude
    loss = sae.loss(torch.tensor([[1.0, 0.5]]), 1.0)
    assert sae.encode(torch.tensor([[1.0, 0.5]])).tolist() == [[1.0, 0.0]]
    assert loss.reconstruction.item() == pytest.approx(0.25)
    assert loss.penalties["l1"].item() == pytest.approx(2.0)
    assert loss.penalties["auxiliary"].item() == pytest.approx(0.25)
    assert loss.fired_F.tolist() == [True, False]
    # u = (0.25, 3): gates (0.25, 2) are open, magnitudes (-0.5, 3.5): an open gate does not make a latent fire
    assert sae.encode(torch.tensor([[0.25, 3.0]])).tolist() == [[0.0, 3.5]]
    assert sae.loss(torch.tensor([[0.25, 3.0]]), 1.0).fired_F.tolist() == [False, True]


def test_loss_is_that_of_the_paper():
    sae, x_BD = gated(l1_coefficient=0.7), rows(40, 3, dtype=torch.float64)
    main, l1, auxiliary = paper_terms(sae, x_BD, sae.W_dec, sae.b_dec)
    loss = sae.loss(x_BD, 1.0)
    torch.testing.assert_close(loss.reconstruction, main)
    torch.testing.assert_close(loss.penalties["l1"], 0.7 * l1)
    torch.testing.assert_close(loss.penalties["auxiliary"], auxiliary)
    torch.testing.assert_close(loss.total, main + 0.7 * l1 + auxiliary)


def test_gradient_is_that_of_the_paper_by_autograd_and_by_differences():
    sae, x_BD = gated(l1_coefficient=0.7), rows(40, 3, dtype=torch.float64)
    W_dec_FD, b_dec_D = sae.W_dec.detach().clone(), sae.b_dec.detach().clone()

    def total():
        main, l1, auxiliary = paper_terms(sae, x_BD, W_dec_FD, b_dec_D)
        return main + 0.7 * l1 + auxiliary

    ours, plain = gradients(sae, sae.loss(x_BD, 1.0).total), gradients(sae, total())
    for name, parameter in sae.named_parameters():
        assert plain[name].abs().max() > 1e-3, name
        torch.testing.assert_close(ours[name], plain[name])
        torch.testing.assert_close(ours[name], difference_quotients(total, parameter), rtol=1e-5, atol=1e-6)


def test_each_term_reaches_its_own_parameters():
    sae, x_BD = gated(), rows(40, 3, dtype=torch.float64)
    loss = sae.loss(x_BD, 1.0)
    reached = {
        term: {name for name, gradient in gradients(sae, value).items() if gradient.count_nonzero() > 0}
        for term, value in {"reconstruction": loss.reconstruction, **loss.penalties}.items()
    }
    assert reached == {
        "reconstruction": {"W_enc", "r_mag", "b_mag", "W_dec", "b_dec"},  # the step function hides the gate's bias
        "l1": {"W_enc", "b_enc", "b_dec"},
        "auxiliary": {"W_enc", "b_enc"},  # neither W_dec nor b_dec
    }


def test_without_the_auxiliary_loss_the_gate_would_only_be_pushed_shut():
    sae, x_BD = gated(), rows(200, 3, dtype=torch.float64)
    loss = sae.loss(x_BD, 1.0)
    assert (gradients(sae, loss.penalties["l1"])["b_enc"] > 0).all()
    assert (gradients(sae, loss.penalties["auxiliary"])["b_enc"] < 0).any()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_canonical_threshold_for_both_signs_of_the_gain(sign):
    sae, x_BD = gated(), rows(500, 3, dtype=torch.float64)
    set_rows(sae.r_mag, sign * torch.rand(6, generator=torch.Generator().manual_seed(0)))
    folded = sae.canonical()
    assert folded.activation == "jumprelu"
    assert (folded.threshold_F < 0).any()
    assert (folded.threshold_F > 0).any()
    torch.testing.assert_close(folded.encode(x_BD), sae.encode(x_BD))
    torch.testing.assert_close(folded(x_BD), sae(x_BD))
    torch.testing.assert_close(folded.for_raw_inputs(2.5)(x_BD / 2.5), sae(x_BD) / 2.5)


def test_input_gradient_is_there_for_who_asks():
    sae, x_BD = gated(), rows(7, 3, dtype=torch.float64).requires_grad_()
    (ours,) = torch.autograd.grad(sae.encode(x_BD).square().sum(), x_BD)
    pre_BF = (x_BD - sae.b_dec) @ sae.W_enc
    f_BF = ((pre_BF + sae.b_enc) > 0) * (pre_BF * sae.r_mag.exp() + sae.b_mag).relu()
    (plain,) = torch.autograd.grad(f_BF.square().sum(), x_BD)
    torch.testing.assert_close(ours, plain)


def test_optimiser_and_replaced_latents():
    sae = gated(torch.float32)
    assert sae.adam_betas == (0.0, 0.999)
    alive_F = torch.tensor([True] * 4 + [False] * 2)
    sae.replace_latents(torch.tensor([4, 5]), torch.nn.functional.normalize(rows(2, 3), dim=1), alive_F)
    assert sae.r_mag[4:].tolist() == sae.b_mag[4:].tolist() == sae.b_enc[4:].tolist() == [0.0, 0.0]
    assert sae.r_mag[:4].count_nonzero() == 4
    assert set(sae.latent_axes()) == {"W_enc", "b_enc", "W_dec", "r_mag", "b_mag"}
