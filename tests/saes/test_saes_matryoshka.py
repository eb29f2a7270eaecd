from __future__ import annotations

import pytest
import torch
from hand_cases import gradients, identity, rows, set_rows

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes.matryoshka import nested_losses


def naive_losses(f_BF, W_dec_FD, b_dec_D, x_BD, widths):
    return torch.stack(
        [(f_BF[:, :width] @ W_dec_FD[:width] + b_dec_D - x_BD).square().sum(1).mean() for width in widths]
    )


@pytest.mark.parametrize("widths", [(9,), (1, 9), (2, 3, 5, 9), tuple(range(1, 10))])
def test_nested_losses_and_gradients_are_those_of_a_loop_over_prefixes(widths):
    x_BD = rows(11, 4, dtype=torch.float64)
    parts = [rows(11, 9, 1, torch.float64).relu(), rows(9, 4, 2, torch.float64), rows(1, 4, 3, torch.float64)[0]]
    parts = [part.requires_grad_() for part in parts]
    ours, error_BD = nested_losses(*parts, x_BD, widths)
    plain = naive_losses(*parts, x_BD, widths)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(error_BD, parts[0] @ parts[1] + parts[2] - x_BD)
    assert not error_BD.requires_grad
    weight_G = torch.linspace(0.3, 2.0, len(widths), dtype=torch.float64)
    first, second = (torch.autograd.grad((losses * weight_G).sum(), parts) for losses in (ours, plain))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_two_latents_by_hand():
    sae = identity("matryoshka", k=2, num_widths=2, aux_coefficient=0.0)
    set_rows(sae.b_dec, [0.0, 1.0])
    # widths 1 and 2; code (3, 1): the first prefix gives (3, 1), the second (3, 2)
    loss = sae.loss(torch.tensor([[3.0, 2.0]]), 1.0)
    assert loss.reconstruction.item() == pytest.approx(0.0)
    assert loss.penalties["nested"].item() == pytest.approx((1.0 + 0.0) / 2)
    assert loss.total.item() == pytest.approx(0.5)


def test_total_is_the_mean_over_widths_and_the_auxiliary_loss_is_not_divided_again():
    sae, x_BD = saes.create("matryoshka", d_in=4, d_sae=16, k=2, num_widths=4), rows(64, 4)
    sae.mark_dead(torch.arange(16) < 3)
    loss = sae.loss(x_BD, 1.0)
    f_BF, _ = sae.select(sae.preactivations(x_BD))
    naive_G = naive_losses(f_BF, sae.W_dec, sae.b_dec, x_BD, (2, 4, 8, 16))
    same = saes.create("batch_topk", d_in=4, d_sae=16, k=2)
    same.mark_dead(torch.arange(16) < 3)
    auxk = same.loss(x_BD, 1.0).penalties["auxk"]  # of the full residual
    assert auxk.item() > 0
    torch.testing.assert_close(loss.penalties["auxk"], auxk)
    torch.testing.assert_close(loss.total, naive_G.mean() + auxk)
    torch.testing.assert_close(loss.reconstruction, naive_G[-1])


def test_a_single_width_is_batch_topk():
    params = {"d_in": 4, "d_sae": 16, "k": 2, "seed": 5}
    plain, nested = saes.create("batch_topk", **params), saes.create("matryoshka", num_widths=1, **params)
    x_BD = rows(64, 4)
    first, second = (gradients(sae, sae.loss(x_BD, 1.0).total) for sae in (plain, nested))
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient)


def test_widths():
    def widths(d_sae, num_widths):
        return saes.create("matryoshka", d_in=2, d_sae=d_sae, k=1, num_widths=num_widths).widths()

    assert widths(64, 5) == (4, 8, 16, 32, 64)
    assert widths(16, 5) == (1, 2, 4, 8, 16)
    assert widths(21, 4) == (3, 6, 11, 21)
    assert all(len(set(widths(d_sae, 4))) == 4 for d_sae in range(8, 40))
    with pytest.raises(UserInputError, match="d_sae = 15 cannot be halved 4 times"):
        saes.create("matryoshka", d_in=2, d_sae=15, k=1)


def test_threshold_and_canonical_form_are_those_of_batch_topk():
    sae, x_BD = saes.create("matryoshka", d_in=8, d_sae=32, k=3).double(), rows(300, 8, dtype=torch.float64)
    sae.calibrate(x_BD)
    assert (sae.encode(x_BD) > 0).sum().item() == 900
    folded = sae.canonical()
    assert folded.activation == "jumprelu"
    torch.testing.assert_close(folded(x_BD), sae(x_BD))


def test_early_latents_learn_to_reconstruct_alone():
    from hand_cases import sparse_rows, train

    def error_of_half(name, **params):
        sae = saes.create(name, d_in=8, d_sae=16, k=2, lr=1e-2, **params)
        train(sae, 300, draw=sparse_rows)
        x_BD = sparse_rows(2000, 8, seed=10_000)
        f_BF = sae.encode(x_BD)
        f_BF[:, 4:] = 0
        return (sae.decode(f_BF) - x_BD).square().sum(1).mean().item()

    assert error_of_half("matryoshka", num_widths=3) < 0.9 * error_of_half("batch_topk")
