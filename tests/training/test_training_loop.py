from __future__ import annotations

import math

import pytest
import torch

import vsae_search.saes as saes
from vsae_search.errors import Diverged
from vsae_search.space import TrainingSpec
from vsae_search.training import Rung, fit, loop
from vsae_search.training.optimiser import build_adam, clip_gradients_

BATCH, STEPS, D_IN, D_SAE = 32, 250, 6, 16
SPEC = TrainingSpec(num_tokens=BATCH * STEPS, batch_size=BATCH)
PARAMS = {"relu": {"resample_dead": True}, "april": {}, "topk": {"k": 2}, "vsae_iso": {}}


class ListStream:
    """Batches from a list; says how they were passed over."""

    def __init__(self, batches):
        self.batches, self.position, self.drawn = batches, 0, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        self.drawn += 1
        return self.batches[(self.position - 1) % len(self.batches)].clone()

    def skip(self, num_batches):
        self.position += num_batches


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(40, BATCH, D_IN, generator=generator))


def create(name="relu", **params):
    return saes.create(name, d_in=D_IN, d_sae=D_SAE, **PARAMS[name] | {"lr": 3e-3} | params)


def run(sae, *, spec=SPEC, stream=None, on_rung=None, checkpoint=None):
    rungs = []
    fit(sae, stream or ListStream(batches()), spec, on_rung=on_rung or rungs.append, checkpoint=checkpoint)
    return rungs


def test_rungs_tell_where_training_stands():
    rungs = run(create())
    assert all(isinstance(rung, Rung) for rung in rungs)
    assert [(rung.index, rung.fraction, rung.step, rung.tokens) for rung in rungs] == [
        (0, 0.25, 62, 62 * BATCH),
        (1, 0.5, 125, 125 * BATCH),
        (2, 1.0, 250, 250 * BATCH),
    ]
    assert all(set(rung.losses) == {"total", "reconstruction", "l1"} for rung in rungs)
    assert all(rung.grad_norm > 0 and 0 <= rung.dead_fraction <= 1 for rung in rungs)
    assert [rung.lr for rung in rungs] == pytest.approx([3e-3, 3e-3, 3e-3 / 50])
    assert 0 < rungs[0].train_s < rungs[1].train_s < rungs[2].train_s
    assert rungs[2].losses["total"] < rungs[0].losses["total"]


def test_losses_are_means_since_the_last_rung():
    seen = []
    sae = create()
    plain_loss = sae.loss

    def noted(x_BD, progress):
        loss = plain_loss(x_BD, progress)
        seen.append(loss.total.item())
        return loss

    sae.loss = noted
    rungs = run(sae)
    assert rungs[0].losses["total"] == pytest.approx(sum(seen[:62]) / 62, rel=1e-6)
    assert rungs[1].losses["total"] == pytest.approx(sum(seen[62:125]) / 63, rel=1e-6)
    assert rungs[2].losses["total"] == pytest.approx(sum(seen[125:]) / 125, rel=1e-6)


def test_progress_and_penalty_warm_up_are_passed_on():
    sae, seen = create(), []
    plain_loss = sae.loss

    def noted(x_BD, progress):
        seen.append((progress, sae.warm_up(progress)))
        return plain_loss(x_BD, progress)

    sae.loss = noted
    run(sae, spec=SPEC.model_copy(update={"penalty_warmup_fraction": 0.5}))
    assert [progress for progress, _ in seen] == [step / STEPS for step in range(STEPS)]
    assert [factor for _, factor in seen] == pytest.approx([min(1.0, 2 * step / STEPS) for step in range(STEPS)])


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_same_seed_same_weights(name):
    first, second = create(name), create(name)
    run(first)
    run(second)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


def test_the_configuration_is_not_changed():
    sae = create("topk")
    before, spec_before = sae.config.model_dump(), SPEC.model_dump()
    run(sae)
    assert sae.config.model_dump() == before
    assert SPEC.model_dump() == spec_before


def test_an_initialised_autoencoder_is_not_initialised_again():
    sae = create(lr=1e-9)
    sae.initialise(torch.full((4, D_IN), 5.0))
    run(sae)
    torch.testing.assert_close(sae.b_dec.data, torch.full((D_IN,), 5.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [3, 137, 249])
def test_a_non_finite_batch_is_divergence_with_its_step(at, bad):
    stream = ListStream([torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(i)) for i in range(STEPS)])
    stream.batches[at][5, 2] = bad
    with pytest.raises(Diverged, match=rf"relu: \w+ became (nan|inf) at step {at + 1}$|at step {at + 1}\n") as caught:
        run(create(), stream=stream)
    assert caught.value.hint


def test_a_non_finite_gradient_of_a_finite_loss_is_divergence():
    sae = create()
    plain = sae.before_step

    def poison():
        plain()
        if len(seen) == 7:
            sae.b_enc.grad[0] = float("nan")
        seen.append(0)

    seen = []
    sae.before_step = poison
    with pytest.raises(Diverged, match="grad_norm became nan at step 8"):
        run(sae)


def test_weights_broken_by_the_very_last_step_are_divergence():
    sae = create()
    plain, seen = sae.after_step, []

    def poison():
        plain()
        seen.append(0)
        if len(seen) == STEPS:
            sae.W_dec.data[0, 0] = float("nan")

    sae.after_step = poison
    with pytest.raises(Diverged, match=r"W_dec is not finite after step 250"):
        run(sae)


def test_a_diverged_trial_reports_no_rung_after_the_cause():
    stream = ListStream(batches())
    stream.batches = [batch.clone() for batch in stream.batches] + [torch.full((BATCH, D_IN), float("nan"))] * 300
    rungs = []
    with pytest.raises(Diverged):
        run(create(), stream=stream, on_rung=rungs.append)
    assert rungs == []


def test_an_exception_of_the_caller_stops_training():
    class Stop(Exception):
        pass

    def stop(rung):
        raise Stop

    stream = ListStream(batches())
    with pytest.raises(Stop):
        run(create(), stream=stream, on_rung=stop)
    assert stream.drawn == 62


def test_time_in_on_rung_is_not_training_time(monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 0.001
        return now[0]

    monkeypatch.setattr(loop.time, "perf_counter", clock)
    rungs = []

    def slow(rung):
        now[0] += 100.0
        rungs.append(rung)

    run(create(), on_rung=slow)
    assert rungs[-1].train_s < 1.0


def test_dead_latents_are_seen_by_the_auxiliary_loss():
    sae = create("topk", aux_coefficient=1 / 32)
    sae.initialise(batches()[0])
    with torch.no_grad():
        sae.b_enc[:8] = -1e4
    rungs = run(sae, spec=SPEC.model_copy(update={"dead_window_tokens": 50 * BATCH}))
    assert rungs[0].dead_fraction == pytest.approx(0.5, abs=0.2)
    # negative on every row: beyond the auxiliary loss, and therefore resampled at a quarter of training
    assert rungs[-1].dead_fraction < rungs[0].dead_fraction
    assert (sae.b_enc > -1e3).all()


def test_fused_adam_is_used_and_falls_back(monkeypatch):
    sae = create("topk")
    optimiser = build_adam(sae)
    assert optimiser.defaults["fused"]
    assert optimiser.defaults["betas"] == (0.9, 0.999)
    assert optimiser.defaults["eps"] == 6.25e-10
    plain = torch.optim.Adam

    def refuse(*args, fused=False, **kwargs):
        if fused:
            raise RuntimeError("fused is not supported here")
        return plain(*args, **kwargs)

    fused_sae, foreach_sae = create(), create()
    run(fused_sae)
    monkeypatch.setattr(torch.optim, "Adam", refuse)
    assert build_adam(sae).defaults["foreach"]
    run(foreach_sae)
    for name, tensor in fused_sae.state_dict().items():
        torch.testing.assert_close(foreach_sae.state_dict()[name], tensor, rtol=2e-3, atol=2e-4)


def test_only_trainable_parameters_reach_the_optimiser():
    sae = create("vsae_iso", learn_sigma=False)
    before = sae.log_variance.clone()
    run(sae)
    assert torch.equal(sae.log_variance, before)


def test_clipping_scales_all_gradients_together():
    weights = [torch.zeros(3), torch.zeros(2, 2), torch.zeros(5)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    assert clip_gradients_(weights, 1.0).item() == pytest.approx(5.0)
    assert weights[0].grad[0].item() == pytest.approx(0.6, rel=1e-5)
    assert weights[1].grad[0, 1].item() == pytest.approx(0.8, rel=1e-5)
    assert clip_gradients_(weights, 1.0).item() == pytest.approx(1.0, rel=1e-5)
    clip_gradients_(weights, 10.0)
    assert math.hypot(weights[0].grad[0].item(), weights[1].grad[0, 1].item()) == pytest.approx(1.0, rel=1e-5)
