from __future__ import annotations

import itertools

import pytest
import torch
from test_training_checkpoint import FAST_DEATH, Crash, CrashingStream, half_dead
from test_training_loop import BATCH, PARAMS, SPEC, STEPS, ListStream, batches, create

import vsae_search.saes as saes
from vsae_search.training import Curve, fit, loop
from vsae_search.training.curve import FEWEST_POINTS, L0_ROWS, MOST_POINTS, curve_steps, training_l0


def trained(sae, *, spec=SPEC, stream=None, checkpoint=None, curve=None, on_rung=None):
    fit(
        sae,
        stream or ListStream(batches()),
        spec,
        on_rung=on_rung or (lambda rung: None),
        checkpoint=checkpoint,
        curve=curve,
    )
    return sae


def test_points_are_bounded_and_resolve_the_start():
    for num_steps in (1, 9, 10, 25, 250, 2_000, 683, 1_000_000):
        steps = curve_steps(num_steps)
        assert 1 <= len(steps) <= min(MOST_POINTS, num_steps, max(FEWEST_POINTS, num_steps // 10))
        assert min(steps) >= 1
        assert max(steps) == num_steps
    assert {1, 2, 3} <= curve_steps(10_000)
    assert {5_000, 10_000} <= curve_steps(10_000)
    widest = sorted(curve_steps(10_000))
    assert max(b - a for a, b in itertools.pairwise(widest)) <= 10_000 // 100


def test_losses_are_means_between_points():
    seen = []
    sae = create()
    plain_loss = sae.loss

    def noted(x_BD, progress):
        loss = plain_loss(x_BD, progress)
        seen.append([float(term.detach()) for term in (loss.total, loss.reconstruction, loss.penalties["l1"])])
        return loss

    sae.loss = noted
    curve = Curve()
    trained(sae, curve=curve)
    columns = curve.columns
    assert set(columns) == {
        *("step", "tokens", "total", "reconstruction", "l1", "grad_norm", "l0", "dead_fraction"),
    }
    assert columns["step"] == sorted(curve_steps(STEPS))
    assert columns["tokens"] == [step * BATCH for step in columns["step"]]
    starts = [0, *columns["step"][:-1]]
    for place, name in enumerate(("total", "reconstruction", "l1")):
        for start, end, value in zip(starts, columns["step"], columns[name], strict=True):
            mean = sum(row[place] for row in seen[start:end]) / (end - start)
            assert value == pytest.approx(mean, rel=1e-5)


def test_l0_and_dead_latents_are_those_of_the_step():
    sae, curve = half_dead("topk"), Curve()
    trained(sae, spec=FAST_DEATH, curve=curve)
    assert curve.columns["l0"][0] <= 2
    assert max(curve.columns["dead_fraction"]) > 0
    x_BD = batches()[0]
    sae.training_code = lambda x_BD: torch.eye(len(x_BD), 16)[:, :3]  # latents 0 to 2 fire on one row each
    assert training_l0(sae, x_BD) == pytest.approx(3 / BATCH)
    assert training_l0(sae, x_BD.repeat(20, 1)) == pytest.approx(3 / L0_ROWS), "a bounded number of rows is looked at"


@pytest.mark.parametrize("name", ["relu", "topk", "batch_topk", "vsae_iso", "vsae_topk", "vsae_spike_slab", "gated"])
def test_a_curve_changes_nothing_in_training(name):
    params = {"k": 2} if "topk" in name else {"prior_l0": 2.0} if name == "vsae_spike_slab" else {}
    spec = SPEC.model_copy(update={"num_tokens": BATCH * 120, "dead_window_tokens": 128})
    made = [saes.create(name, d_in=6, d_sae=16, seed=3, lr=3e-3, **params) for _ in range(2)]
    torch.manual_seed(5)
    plain = trained(made[0], spec=spec)
    torch.manual_seed(5)
    curve = Curve()
    noted = trained(made[1], spec=spec, curve=curve)
    assert len(curve.columns["step"]) > 5
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, noted.state_dict()[key]), key


@pytest.mark.parametrize("name", sorted(PARAMS))
@pytest.mark.parametrize("at", [30, 130, 249])
def test_a_resumed_curve_equals_an_uninterrupted_one(name, at, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0)
    whole, broken, resumed = Curve(), Curve(), Curve()
    trained(create(name), curve=whole)
    with pytest.raises(Crash):
        trained(create(name), stream=CrashingStream(batches(), at), checkpoint=tmp_path, curve=broken)
    assert len(broken.columns["step"]) < len(whole.columns["step"])
    trained(create(name), checkpoint=tmp_path, curve=resumed)
    assert resumed.columns == whole.columns


def test_a_checkpoint_without_a_curve_is_gone_on_with(tmp_path):
    with pytest.raises(Crash):
        trained(create(), stream=CrashingStream(batches(), 130), checkpoint=tmp_path)
    curve = Curve()
    trained(create(), checkpoint=tmp_path, curve=curve)
    assert curve.columns["step"][0] > 125
    assert curve.columns["step"][-1] == STEPS


def test_an_architecture_without_gradient_has_no_curve():
    curve = Curve()
    trained(saes.create("pca", d_in=6, d_sae=6, k=2), curve=curve)
    assert curve.columns == {}
