"""Losses of cases small enough to be worked out by hand (two dimensions, two latents, identity weights)."""

from __future__ import annotations

import math

import pytest
import torch

import vsae_search.saes as saes

EYE = torch.eye(2)


def identity(name, **params):
    sae = saes.create(name, d_in=2, d_sae=2, **params)
    with torch.no_grad():
        sae.W_enc.copy_(EYE)
        sae.W_dec.copy_(EYE)
    return sae


def values(loss):
    parts = {name: value.item() for name, value in loss.penalties.items()}
    return loss.total.item(), loss.reconstruction.item(), parts


def test_relu():
    sae = identity("relu", l1_coefficient=2.0)
    with torch.no_grad():
        sae.b_enc.copy_(torch.tensor([0.0, -0.5]))
        sae.b_dec.copy_(torch.tensor([0.5, 0.0]))
    x_BD = torch.tensor([[1.5, 1.0], [0.5, 0.2]])
    # codes (1, 0.5) and (0, 0); errors (0, -0.5) and (0, -0.2); L1 of the codes 1.5 and 0
    total, reconstruction, parts = values(sae.loss(x_BD, 1.0))
    assert reconstruction == pytest.approx((0.25 + 0.04) / 2)
    assert parts == {"l1": pytest.approx(2.0 * 1.5 / 2)}
    assert total == pytest.approx(0.145 + 1.5)
    assert sae.loss(x_BD, 1.0).fired_F.tolist() == [True, True]
    assert sae.loss(x_BD[1:], 1.0).fired_F.tolist() == [False, False]
    sae.penalty_warmup_fraction = 0.5
    assert values(sae.loss(x_BD, 0.25))[2] == {"l1": pytest.approx(0.75)}
    assert values(sae.loss(x_BD, 0.5))[2] == {"l1": pytest.approx(1.5)}


def test_april():
    sae = identity("april", l1_coefficient=3.0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.diag(torch.tensor([2.0, 0.5])))
        sae.b_dec.copy_(torch.tensor([0.0, 1.0]))
    # no bias is subtracted: code (1, 2), reconstruction (2, 2), error (1, 0), norm-weighted L1 1·2 + 2·0.5
    total, reconstruction, parts = values(sae.loss(torch.tensor([[1.0, 2.0]]), 1.0))
    assert (total, reconstruction) == (pytest.approx(10.0), pytest.approx(1.0))
    assert parts == {"l1": pytest.approx(9.0)}


def test_april_loss_does_not_depend_on_the_scale_of_a_latent():
    sae, x_BD = saes.create("april", d_in=4, d_sae=6).double(), torch.randn(9, 4, dtype=torch.float64)
    before = sae.loss(x_BD, 1.0).total.item()
    with torch.no_grad():
        sae.W_enc[:, 2] /= 7
        sae.b_enc[2] /= 7
        sae.W_dec[2] *= 7
    assert sae.loss(x_BD, 1.0).total.item() == pytest.approx(before, rel=1e-12)


def test_topk_with_auxiliary_loss():
    sae = identity("topk", k=1, aux_coefficient=0.25)
    x_BD = torch.tensor([[3.0, 1.0], [2.0, -1.0]])
    # codes (3, 0) and (2, 0); residuals (0, 1) and (0, -1), of mean 0 and total variance 2
    assert values(sae.loss(x_BD, 1.0)) == (pytest.approx(1.0), pytest.approx(1.0), {"auxk": 0.0})
    sae.mark_dead(torch.tensor([False, True]))
    # dead pre-activations 1 and -1 -> ReLU -> 1 and 0: estimates (0, 1) and (0, 0), squared error 0 + 1
    total, reconstruction, parts = values(sae.loss(x_BD, 1.0))
    assert reconstruction == pytest.approx(1.0)
    assert parts == {"auxk": pytest.approx(0.25 * 1 / 2)}
    assert total == pytest.approx(1.125)
    # the estimate has no decoder bias: with b_dec = (0, 1) the residuals are (0, 0) and (0, -2), of variance 2
    with torch.no_grad():
        sae.b_dec.copy_(torch.tensor([0.0, 1.0]))
    assert values(sae.loss(x_BD, 1.0))[2] == {"auxk": pytest.approx(0.25 * 4 / 2)}


def test_auxiliary_loss_is_zero_where_the_residual_does_not_vary():
    sae = identity("topk", k=1, aux_coefficient=0.25)
    sae.mark_dead(torch.tensor([False, True]))
    loss = sae.loss(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), 1.0)
    assert loss.penalties["auxk"].item() == 0.0
    loss.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in sae.parameters())


def test_vsae_iso():
    sae = identity("vsae_iso", kl_coefficient=0.4)
    with torch.no_grad():
        sae.log_variance.copy_(torch.tensor([0.0, math.log(0.25)]))
    # mean (1, 0): error (0, 1); variances 1 + 0.25; KL ½[(1 + 1 - 1 - 0) + (0.25 + 0 - 1 - ln 0.25)]
    kl_nats = 0.5 * (1.0 + (-0.75 + math.log(4)))
    total, reconstruction, parts = values(sae.loss(torch.tensor([[1.0, -1.0]]), 1.0))
    assert reconstruction == pytest.approx(1.0)
    assert parts == {"variance": pytest.approx(1.25), "kl": pytest.approx(0.4 * kl_nats)}
    assert total == pytest.approx(2.25 + 0.4 * kl_nats)
    assert sae.loss(torch.tensor([[1.0, -1.0]]), 1.0).fired_F.tolist() == [True, False]


def test_first_gradient_of_relu_bias():
    sae = identity("relu", l1_coefficient=2.0)
    sae.loss(torch.tensor([[1.0, -1.0]]), 1.0).total.backward()
    # code (1, 0), error (0, 1): latent 0 feels only λ; b_dec feels 2e = (0, 2) minus what its own encoder passes on
    assert sae.b_enc.grad.tolist() == [2.0, 0.0]
    assert sae.b_dec.grad.tolist() == [-2.0, 2.0]
