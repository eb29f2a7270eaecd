from __future__ import annotations

import pytest
import torch
from hand_cases import gradients, identity, rows, set_rows, train

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes import batch_topk


def test_two_latents_by_hand():
    sae = identity("batch_topk", k=1, aux_coefficient=0.25)
    x_BD = torch.tensor([[3.0, 2.0], [1.0, -1.0]])
    # the two largest of {3, 2, 1, 0} are both in the first row; the second row is reconstructed as 0
    loss = sae.loss(x_BD, 1.0)
    assert loss.reconstruction.item() == pytest.approx((0 + 2) / 2)
    assert loss.fired_F.tolist() == [True, True]
    assert sae.loss(torch.tensor([[3.0, 0.5], [2.0, 1.0]]), 1.0).fired_F.tolist() == [True, False]
    sae.after_step()
    assert sae.threshold.item() == 2.0  # smallest kept value of the latest batch that a step was made with
    assert sae.encode(x_BD).tolist() == [[3.0, 0.0], [0.0, 0.0]]  # strictly above


@pytest.mark.parametrize("k", [1, 3, 7, 40])
def test_exactly_the_largest_of_the_batch_are_kept(k):
    sae = saes.create("batch_topk", d_in=6, d_sae=40, k=k)
    pre_BF = sae.preactivations(rows(50, 6))
    f_BF, fired_F = sae.select(pre_BF)
    smallest = pre_BF.flatten().sort(descending=True).values[50 * k - 1].clamp_min(0.0)
    torch.testing.assert_close(f_BF, pre_BF.relu() * (pre_BF >= smallest))
    assert (f_BF > 0).sum().item() == min(50 * k, (pre_BF > 0).sum().item())
    assert torch.equal(fired_F, (f_BF > 0).any(0))


def test_counting_and_selecting_give_the_same_code_and_gradient(monkeypatch):
    x_BD, found = rows(1024, 20), []
    for smallest in (batch_topk.smallest_kept, lambda values, count: None):
        sae = saes.create("batch_topk", d_in=20, d_sae=160, k=8)
        sae.initialise(x_BD)
        monkeypatch.setattr(batch_topk, "smallest_kept", smallest)
        loss = sae.loss(x_BD, 0.5)
        loss.total.backward()
        sae.after_step()
        found.append([loss.total.detach(), loss.fired_F, sae.threshold, *(p.grad for p in sae.parameters())])
    assert batch_topk.smallest_kept(sae.preactivations(x_BD), 8192) is None, "the second one selects"
    for counted, selected in zip(*found, strict=True):
        assert torch.equal(counted, selected)
    assert found[0][2] > 0


def test_ties_do_not_break_the_budget():
    sae = saes.create("batch_topk", d_in=2, d_sae=6, k=2)
    f_BF, _ = sae.select(torch.ones(10, 6))
    assert (f_BF > 0).sum().item() == 20
    f_BF, fired_F = sae.select(torch.zeros(10, 6))
    assert f_BF.count_nonzero() == fired_F.count_nonzero() == 0


def test_only_winners_get_a_gradient():
    sae = saes.create("batch_topk", d_in=6, d_sae=40, k=2)
    pre_BF = sae.preactivations(rows(50, 6)).detach().requires_grad_()
    f_BF, _ = sae.select(pre_BF)
    (gradient_BF,) = torch.autograd.grad((f_BF * 3.0).sum(), pre_BF)
    assert torch.equal(gradient_BF, 3.0 * (f_BF > 0))


@pytest.mark.parametrize("k", [1, 5, 11])
def test_calibration_makes_held_out_l0_exactly_k(k):
    sae = saes.create("batch_topk", d_in=8, d_sae=64, k=k)
    train(sae, 20)
    held_out, num_rows = rows(777, 8, seed=5), 777
    sae.calibrate(held_out)
    assert (sae.encode(held_out) > 0).sum().item() == k * num_rows
    other = (sae.encode(rows(20_000, 8, seed=6)) > 0).sum(1).double().mean().item()
    assert other == pytest.approx(k, rel=0.2)


def test_values_that_tie_at_the_threshold_do_not_fire():
    sae = identity("batch_topk", k=1)
    x_BD = torch.tensor([[2.0, 1.0], [1.0, 1.0]])  # the second largest value is there three times
    sae.calibrate(x_BD)
    assert sae.threshold.item() == 1.0
    assert (sae.encode(x_BD) > 0).sum().item() == 1


def test_each_row_is_encoded_by_itself():
    sae = saes.create("batch_topk", d_in=8, d_sae=64, k=4)
    x_BD = rows(100, 8)
    sae.calibrate(x_BD)
    singly = torch.cat([sae.encode(row_D[None]) for row_D in x_BD])
    torch.testing.assert_close(sae.encode(x_BD), singly)
    assert sae.declared_l0() is None
    assert (sae.encode(x_BD) > 0).sum(1).unique().numel() > 1


def test_code_before_any_calibration():
    x_BD = rows(500, 8)
    fresh = saes.create("batch_topk", d_in=8, d_sae=64, k=4)
    assert torch.equal(fresh.encode(x_BD), fresh.preactivations(x_BD).relu())
    fresh.initialise(x_BD)
    assert (fresh.encode(x_BD) > 0).sum().item() == 4 * 500
    train(fresh, 30)  # from here on the running mean of the smallest kept values
    assert fresh.threshold.item() == fresh.smallest_kept.item() > 0
    assert (fresh.encode(x_BD) > 0).sum(1).double().mean().item() == pytest.approx(4, rel=0.25)


def test_running_mean_of_the_smallest_kept_value():
    sae = identity("batch_topk", k=1)
    sae.initialise(torch.tensor([[5.0, 1.0], [4.0, 1.0]]))
    set_rows(sae.b_dec, [0.0, 0.0])
    first = sae.threshold.item()
    sae.after_step()
    assert sae.threshold.item() == first  # nothing has been trained yet
    for value, mean in ((3.0, 3.0), (1.0, 2.0), (5.0, 3.0)):
        sae.loss(torch.tensor([[value, 0.0], [value + 1, 0.0]]), 0.0)
        for _ in range(2):
            sae.after_step()
            assert sae.smallest_kept.item() == sae.threshold.item() == pytest.approx(mean)
    sae.loss(torch.tensor([[-1.0, -1.0]]), 0.0)  # nothing kept: nothing learned about it
    sae.after_step()
    assert sae.smallest_kept.item() == pytest.approx(3.0)
    assert sae.smallest_kept_steps.item() == 3.0
    with torch.no_grad():
        sae.smallest_kept_steps.fill_(5000.0)
    sae.loss(torch.tensor([[1003.0, 0.0]]), 0.0)
    sae.after_step()
    assert sae.smallest_kept.item() == pytest.approx(3.0 + 1000.0 / 1000)


def test_calibrating_never_changes_what_is_learned():
    plain, calibrated = (saes.create("batch_topk", d_in=8, d_sae=32, k=3, lr=1e-2) for _ in range(2))
    train(plain, 30)
    train(calibrated, 30, between=lambda step: calibrated.calibrate(rows(200, 8, seed=99)))
    for name, tensor in plain.state_dict().items():
        if name != "threshold":
            assert torch.equal(tensor, calibrated.state_dict()[name]), name
    calibrated.after_step()
    assert torch.equal(plain.threshold, calibrated.threshold)


def test_metrics_and_canonical_form():
    sae, x_BD = saes.create("batch_topk", d_in=8, d_sae=32, k=3), rows(400, 8)
    train(sae, 10)
    running = sae.threshold.item()
    sae.calibrate(x_BD)
    assert sae.metrics() == {"threshold": sae.threshold.item(), "threshold_running": running}
    folded = sae.canonical()
    assert folded.activation == "jumprelu"
    assert folded.threshold_F.tolist() == pytest.approx([sae.threshold.item()] * 32)
    assert ((folded.encode(x_BD) > 0) == (sae.encode(x_BD) > 0)).float().mean() > 0.9999
    torch.testing.assert_close(folded(x_BD), sae(x_BD), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_auxiliary_loss_reaches_the_encoder_of_dead_latents_and_no_bias_of_the_decoder(name):
    sae, x_BD = saes.create(name, d_in=4, d_sae=16, k=2), rows(64, 4)
    set_rows(sae.b_dec, [0.2] * 4)
    sae.mark_dead(torch.arange(16) < 3)
    found = gradients(sae, sae.loss(x_BD, 1.0).penalties["auxk"])
    assert (found["W_enc"][:, :3].abs().sum(0) > 0).all()
    assert (found["W_dec"][:3].abs().sum(1) > 0).all()
    assert found["W_enc"][:, 3:].count_nonzero() == found["W_dec"][3:].count_nonzero() == 0
    assert found["b_dec"].count_nonzero() == 0


def test_threshold_stays_in_float32():
    sae, x_BD = saes.create("batch_topk", d_in=8, d_sae=32, k=3), rows(100, 8)
    sae.calibrate(x_BD)
    exact = sae.threshold.item()
    half = sae.to(torch.bfloat16)
    assert half.threshold.dtype == torch.float32
    assert half.threshold.item() == exact
    assert half.W_enc.dtype == half.encode(x_BD.bfloat16()).dtype == torch.bfloat16
    pre = identity("batch_topk", k=1).to(torch.bfloat16)
    pre.threshold.fill_(1.001)  # 1.0 in bfloat16, and 1.0078 is the next value
    assert pre.encode(torch.tensor([[1.0, 1.0078125]]).bfloat16()).tolist() == [[0.0, 1.0078125]]
    assert sae.double().threshold.dtype == torch.float64


def test_k_must_fit():
    with pytest.raises(UserInputError, match="k = 9 is more than d_sae = 8"):
        saes.create("batch_topk", d_in=4, d_sae=8, k=9)
