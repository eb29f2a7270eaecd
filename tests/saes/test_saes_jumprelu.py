from __future__ import annotations

import math

import pytest
import torch
from hand_cases import gradients, identity, rows, set_rows, train

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes.jumprelu import jump


def values(loss):
    return loss.reconstruction.item(), {name: value.item() for name, value in loss.penalties.items()}


def written_out(pre_BF, threshold_F, df_BF, dcount_F, bandwidth, to_input):
    """The straight-through estimators, entry by entry."""
    dpre_BF, dthreshold_F = torch.zeros_like(pre_BF), torch.zeros_like(threshold_F)
    for b in range(pre_BF.shape[0]):
        for i in range(pre_BF.shape[1]):
            pre, theta, df, dcount = (v.item() for v in (pre_BF[b, i], threshold_F[i], df_BF[b, i], dcount_F[i]))
            inside = 1.0 if abs((pre - theta) / bandwidth) < 0.5 else 0.0
            by_threshold = df * (-theta / bandwidth * inside) + dcount * (-1 / bandwidth * inside)
            dthreshold_F[i] += by_threshold
            dpre_BF[b, i] = df * (pre > theta) - (by_threshold if to_input else 0.0)
    return dpre_BF, dthreshold_F


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("bandwidth", [0.1, 0.7, 3.0])
def test_straight_through_gradients_are_the_written_formula(bandwidth, to_input):
    pre_BF = rows(40, 5, dtype=torch.float64).requires_grad_()
    threshold_F = torch.tensor([0.0, 0.1, 0.4, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    df_BF, dcount_F = rows(40, 5, 1, torch.float64), rows(1, 5, 2, torch.float64)[0]
    f_BF, count_F = jump(pre_BF, threshold_F, bandwidth=bandwidth, to_input=to_input)
    assert torch.equal(f_BF, pre_BF * (pre_BF > threshold_F))
    assert torch.equal(count_F, (pre_BF > threshold_F).sum(0).double())
    for scale, dcount in ((df_BF, dcount_F), (df_BF, 0 * dcount_F), (0 * df_BF, dcount_F)):
        value = (f_BF * scale).sum() + (count_F * dcount).sum()
        found = torch.autograd.grad(value, (pre_BF, threshold_F), retain_graph=True)
        expected = written_out(pre_BF, threshold_F, scale, dcount, bandwidth, to_input)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    (only_count,) = torch.autograd.grad(count_F.sum(), threshold_F, retain_graph=True)
    torch.testing.assert_close(
        only_count, written_out(pre_BF, threshold_F, 0 * df_BF, torch.ones(5), bandwidth, False)[1]
    )


@pytest.mark.parametrize("mode", ["step", "target_l0"])
def test_the_l0_gradient_counts_both_halves_of_the_window(mode):
    sae = identity("jumprelu", mode=mode, sparsity_coefficient=3.0, target_l0=1.0, bandwidth=0.2)
    set_rows(sae.threshold, [1.0, 1.0])
    # latent 0: one pre-activation just above its threshold, one just below; latent 1: none in the window
    x_BD = torch.tensor([[1.05, 5.0], [0.95, 5.0]])
    found = gradients(sae, sae.loss(x_BD, 1.0).penalties["sparsity"])
    per_l0 = 3.0 if mode == "step" else 2.0 * 2 * (1.5 / 1.0 - 1.0)
    # dL0/dθ = -(1/ε) · 2 entries / 2 tokens = -5, not -2.5
    assert found["threshold"].tolist() == pytest.approx([-5.0 * per_l0, 0.0])
    assert found["W_enc"].count_nonzero() == 0  # these modes move thresholds only


def test_silent_latents_are_not_in_the_window_of_a_small_threshold():
    sae = identity("jumprelu", mode="step", bandwidth=0.5)
    set_rows(sae.threshold, [0.1, 0.1])
    found = gradients(sae, sae.loss(torch.full((4, 2), -3.0), 1.0).penalties["sparsity"])
    assert found["threshold"].tolist() == [0.0, 0.0]  # their codes are 0, within ε/2 of θ; their pre-activations are -3


def test_two_latents_by_hand():
    x_BD = torch.tensor([[2.0, 0.5], [0.3, 3.0]])
    # thresholds (1, 0.2): codes (2, 0.5) and (0, 3), error (0.3, 0) in the second row, L0 = 1.5
    expected = {
        "tanh": 2.0 * sum(math.tanh(4 * f) for f in (2.0, 0.5, 3.0)) / 2,
        "step": 2.0 * 1.5,
        "target_l0": 0.5 * 2 * (1.5 / 2 - 1) ** 2,
    }
    for mode, value in expected.items():
        sae = identity("jumprelu", mode=mode, sparsity_coefficient=2.0, target_l0=2.0, target_coefficient=0.5)
        set_rows(sae.threshold, [1.0, 0.2])
        loss = sae.loss(x_BD, 1.0)
        assert values(loss) == (pytest.approx(0.09 / 2), {"sparsity": pytest.approx(value), "preact": 0.0})
        assert loss.fired_F.tolist() == [True, True]
        torch.testing.assert_close(sae.encode(x_BD), torch.tensor([[2.0, 0.5], [0.0, 3.0]]))
        sae.penalty_warmup_fraction = 0.5
        assert values(sae.loss(x_BD, 0.125))[1]["sparsity"] == pytest.approx(value / 4)


def test_the_target_is_a_mean_over_the_batch():
    sae = identity("jumprelu", mode="target_l0", target_l0=1.0)
    set_rows(sae.threshold, [0.1, 0.1])
    assert sae.loss(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 1.0).penalties["sparsity"].item() == 0.0
    assert sae.loss(torch.tensor([[1.0, 1.0]]), 1.0).penalties["sparsity"].item() == pytest.approx(2.0)


@pytest.mark.parametrize("mode", ["step", "target_l0", "tanh"])
def test_all_parameters_get_the_estimate_in_mode_tanh_and_on_request(mode):
    # a pre-activation just below its threshold gets a gradient by the estimate only
    x_BD = torch.tensor([[0.95, -3.0]])
    reached = {}
    for choice in (None, False, True):
        sae = identity("jumprelu", mode=mode, target_l0=0.5, bandwidth=0.4, straight_through_input=choice)
        set_rows(sae.threshold, [1.0, 1.0])
        reached[choice] = gradients(sae, sae.loss(x_BD, 1.0).total)["b_enc"][0].item() != 0
    assert reached == {None: mode == "tanh", False: False, True: True}


def test_preactivation_loss_pulls_dead_latents_and_no_others():
    sae = identity("jumprelu", preact_coefficient=0.5)
    set_rows(sae.threshold, [0.2, 0.2])
    x_BD = torch.tensor([[-1.0, -2.0], [1.0, -2.0]])
    assert sae.loss(x_BD, 1.0).penalties["preact"].item() == 0.0
    sae.mark_dead(torch.tensor([False, True]))
    preact = sae.loss(x_BD, 0.0).penalties["preact"]
    assert preact.item() == pytest.approx(0.5 * 2.2)
    found = gradients(sae, preact)
    assert found["b_enc"].tolist() == [0.0, -0.5]
    assert found["threshold"].tolist() == [0.0, 0.5]
    sae.mark_dead(torch.tensor([True, True]))
    assert sae.loss(x_BD, 1.0).penalties["preact"].item() == pytest.approx(0.5 * (2.2 + 1.2 / 2))


def test_smooth_part_equals_autograd_where_no_preactivation_is_in_the_window():
    sae = saes.create("jumprelu", d_in=3, d_sae=6, bandwidth=1e-9, sparsity_coefficient=1.0).double()
    set_rows(sae.threshold, torch.linspace(0.0, 0.5, 6))
    x_BD = rows(30, 3, dtype=torch.float64)
    ours = gradients(sae, sae.loss(x_BD, 1.0).total)
    pre_BF = x_BD @ sae.W_enc + sae.b_enc
    f_BF = pre_BF * (pre_BF > sae.threshold)
    plain = (f_BF @ sae.W_dec + sae.b_dec - x_BD).square().sum(1).mean() + 1.0 * (4 * f_BF).tanh().sum(1).mean()
    for name, gradient in gradients(sae, plain).items():
        torch.testing.assert_close(ours[name], gradient)


def test_thresholds_stay_above_zero_and_leave_it_again():
    sae = saes.create("jumprelu", d_in=4, d_sae=8, mode="step", bandwidth=2.0)
    set_rows(sae.threshold, [-1.0, 0.3] * 4)
    sae.after_step()
    assert sae.threshold.tolist() == pytest.approx([0.0, 0.3] * 4)
    sae.loss(rows(64, 4), 1.0).total.backward()
    assert (sae.threshold.grad[::2] < 0).all()  # the count of firing latents still pushes it up
    train(sae, 100)
    assert (sae.threshold >= 0).all()


@pytest.mark.parametrize("mode", ["tanh", "step"])
def test_a_larger_coefficient_gives_a_sparser_code(mode):
    l0 = []
    for coefficient in (0.1, 3.0):
        sae = saes.create("jumprelu", d_in=8, d_sae=32, mode=mode, sparsity_coefficient=coefficient, lr=1e-2)
        train(sae, 200)
        l0.append((sae.encode(rows(1000, 8, seed=10_000)) > 0).sum(1).double().mean().item())
    assert l0[1] < 0.6 * l0[0]


def test_target_l0_is_approached():
    sae = saes.create("jumprelu", d_in=8, d_sae=32, mode="target_l0", target_l0=3.0, target_coefficient=3.0, lr=1e-2)
    train(sae, 400)
    l0 = (sae.encode(rows(2000, 8, seed=10_000)) > 0).sum(1).double().mean().item()
    assert l0 == pytest.approx(3.0, rel=0.3)


def test_starts_as_if_inputs_were_centred_without_subtracting():
    sae, x_BD = saes.create("jumprelu", d_in=8, d_sae=32), rows(500, 8) + 3.0
    sae.initialise(x_BD)
    centred = (x_BD - sae.b_dec) @ sae.W_enc
    torch.testing.assert_close(sae.preactivations(x_BD), centred, rtol=1e-4, atol=1e-4)
    assert sae.b_dec.min() > 2.0
    assert not sae.subtract_b_dec


def test_threshold_is_a_float32_parameter_that_small_steps_move():
    sae = saes.create("jumprelu", d_in=8, d_sae=16, initial_threshold=1.0).to(torch.bfloat16)
    assert sae.threshold.dtype == torch.float32
    assert sae.W_enc.dtype == sae.loss(rows(4, 8).bfloat16(), 1.0).total.dtype == torch.bfloat16
    optimiser = torch.optim.Adam([sae.threshold], lr=1e-4)
    sae.threshold.grad = torch.ones(16)
    optimiser.step()
    assert torch.all(sae.threshold < 1.0)  # 1 - 1e-4 is 1 in bfloat16
    assert sae.adam_betas == (0.0, 0.999)
    with torch.device("meta"):
        assert saes.get("jumprelu")(sae.config).threshold.is_meta


def test_replaced_latents_and_configuration():
    sae = saes.create("jumprelu", d_in=3, d_sae=6, initial_threshold=0.4)
    set_rows(sae.threshold, [2.0] * 6)
    alive_F = torch.tensor([True] * 5 + [False])
    sae.replace_latents(torch.tensor([5]), torch.nn.functional.normalize(rows(1, 3), dim=1), alive_F)
    assert sae.threshold.tolist() == pytest.approx([2.0] * 5 + [0.4])
    assert sae.latent_axes()["threshold"] == 0
    with pytest.raises(UserInputError, match="target_l0 = 7 is more than d_sae = 6"):
        saes.create("jumprelu", d_in=3, d_sae=6, mode="target_l0", target_l0=7)
    with pytest.raises(UserInputError, match="mode"):
        saes.create("jumprelu", d_in=3, d_sae=6, mode="l0")


def test_canonical_form():
    sae, x_BD = saes.create("jumprelu", d_in=3, d_sae=6).double(), rows(300, 3, dtype=torch.float64)
    sae.initialise(x_BD)
    set_rows(sae.threshold, torch.linspace(0.0, 1.0, 6))
    folded = sae.canonical()
    assert folded.activation == "jumprelu"
    torch.testing.assert_close(folded.encode(x_BD), sae.encode(x_BD))
    torch.testing.assert_close(folded.for_raw_inputs(0.3)(x_BD / 0.3), sae(x_BD) / 0.3)
