from __future__ import annotations

import json

import pytest
import torch
from test_training_loop import PARAMS, SPEC, STEPS, ListStream, batches, create, run

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.training import loop

FAST_DEATH = SPEC.model_copy(update={"dead_window_tokens": 128})


class Crash(Exception):
    pass


def half_dead(name):
    """Three latents that can never fire and three that hardly do, so that AuxK and resampling take part."""
    sae = create(name)
    with torch.no_grad():
        sae.b_enc[:3] = -1e4
        sae.W_enc[:, 3:6] *= 1e-3
    return sae


class CrashingStream(ListStream):
    """Ends the process, so to speak, when a given batch is drawn."""

    def __init__(self, source, at):
        super().__init__(source)
        self.at = at

    def __next__(self):
        if self.position == self.at:
            raise Crash
        return super().__next__()


class NoSkip:
    """An iterator without ``skip``."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.stream)


def plain(rung):
    """A rung without its clock reading."""
    return {key: value for key, value in vars(rung).items() if key != "train_s"}


@pytest.fixture(autouse=True)
def frequent(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0)


@pytest.mark.parametrize("name", sorted(PARAMS))
@pytest.mark.parametrize("at", [30, 64, 170, 249])
def test_a_resumed_run_equals_an_uninterrupted_one(name, at, tmp_path):
    spec = FAST_DEATH
    whole, resumed = half_dead(name), half_dead(name)  # before the first checkpoint, a resume starts afresh
    if at >= 64:
        resumed = create(name)
    expected = run(whole, spec=spec)
    reported = []
    with pytest.raises(Crash):
        run(
            half_dead(name),
            spec=spec,
            stream=CrashingStream(batches(), at),
            on_rung=reported.append,
            checkpoint=tmp_path,
        )
    torch.manual_seed(99)  # a new process has another global state
    stream = ListStream(batches())
    rungs = run(resumed, spec=spec, stream=stream, checkpoint=tmp_path)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    merged = {rung.index: plain(rung) for rung in [*reported, *rungs]}
    assert [merged[index] for index in range(3)] == [plain(rung) for rung in expected]
    if at >= 64:
        assert stream.drawn < STEPS


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_latents_do_die_and_are_resampled_in_that_test(name):
    sae = half_dead(name)
    rungs = run(sae, spec=FAST_DEATH)
    assert rungs[0].dead_fraction > 0
    assert (sae.b_enc > -1e3).all()
    if name == "topk":
        assert rungs[1].losses["auxk"] > 0  # latents are first marked dead at the first rung


def test_a_stream_without_skip_is_drawn_and_dropped(tmp_path):
    whole, resumed = create(), create()
    run(whole)
    with pytest.raises(Crash):
        run(create(), stream=CrashingStream(batches(), 150), checkpoint=tmp_path)
    inner = ListStream(batches())
    run(resumed, stream=NoSkip(inner), checkpoint=tmp_path)
    assert inner.drawn == STEPS
    assert torch.equal(whole.W_enc, resumed.W_enc)


def test_a_rung_whose_report_crashed_is_reported_again(tmp_path):
    first = []

    def crash(rung):
        first.append(rung)
        raise Crash

    with pytest.raises(Crash):
        run(create(), on_rung=crash, checkpoint=tmp_path)
    rungs = run(create(), checkpoint=tmp_path)
    assert [rung.index for rung in rungs] == [0, 1, 2]
    assert rungs[0] == first[0]


def test_a_finished_run_only_reports_its_last_rung_again(tmp_path):
    sae = create()
    rungs = run(sae, checkpoint=tmp_path)
    again, stream = create(), ListStream(batches())
    assert run(again, stream=stream, checkpoint=tmp_path) == rungs[-1:]
    assert stream.drawn == 0
    assert torch.equal(again.W_dec, sae.W_dec)


def test_training_time_adds_up_over_attempts(tmp_path):
    with pytest.raises(Crash):
        run(create(), stream=CrashingStream(batches(), 150), checkpoint=tmp_path)
    before = json.loads((tmp_path / "checkpoint.json").read_text())["progress"]["train_s"]
    assert run(create(), checkpoint=tmp_path)[-1].train_s > before > 0


def test_a_directory_holds_the_last_state_and_the_one_before(tmp_path):
    run(create(), checkpoint=tmp_path)
    records = [json.loads((tmp_path / name).read_text()) for name in ("checkpoint.json", "checkpoint-before.json")]
    steps = [record["progress"]["step"] for record in records]
    assert steps[0] == 250 > steps[1] > 100
    files = {"checkpoint.json", "checkpoint-before.json", *(record["file"] for record in records)}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert [record["file"] for record in records] == [f"state-{step}.safetensors" for step in steps]


@pytest.mark.parametrize("damaged", ["state-250.safetensors", "checkpoint.json"])
def test_a_damaged_state_falls_back_to_the_one_before(damaged, tmp_path):
    whole, resumed, stream = create(), create(), ListStream(batches())
    run(whole, checkpoint=tmp_path)
    step = json.loads((tmp_path / "checkpoint-before.json").read_text())["progress"]["step"]
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run(resumed, stream=stream, checkpoint=tmp_path)
    assert stream.drawn == STEPS - step
    assert torch.equal(whole.W_dec, resumed.W_dec)
    # the good state was not pushed out by the damaged one
    assert json.loads((tmp_path / "checkpoint.json").read_text())["progress"]["step"] == 250
    (tmp_path / "state-250.safetensors").write_bytes(b"")
    assert run(create(), checkpoint=tmp_path)[-1].step == 250


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    """The record before has taken its place, and the new one is not there yet."""
    whole = create()
    run(whole, checkpoint=tmp_path)
    (tmp_path / "checkpoint-before.json").unlink()
    (tmp_path / "checkpoint.json").rename(tmp_path / "checkpoint-before.json")
    resumed, stream = create(), ListStream(batches())
    run(resumed, stream=stream, checkpoint=tmp_path)
    assert stream.drawn == 0
    assert torch.equal(whole.W_dec, resumed.W_dec)


@pytest.mark.parametrize("change", ["config", "seed", "spec", "architecture"])
def test_a_state_of_another_configuration_is_refused(change, tmp_path):
    run(create(), checkpoint=tmp_path)
    sae, spec = create(), SPEC
    if change == "config":
        sae = create(lr=1e-3)
    elif change == "seed":
        sae = create(seed=1)
    elif change == "architecture":
        sae = create("april")
    else:
        spec = SPEC.model_copy(update={"grad_clip": 2.0})
    with pytest.raises(UserInputError, match="another configuration"):
        run(sae, spec=spec, checkpoint=tmp_path)


def test_altered_states_are_refused(tmp_path):
    run(create(), checkpoint=tmp_path)
    (tmp_path / "checkpoint-before.json").unlink()
    record, state = tmp_path / "checkpoint.json", tmp_path / "state-250.safetensors"
    good_record, good_state = record.read_text(), state.read_bytes()
    state.write_bytes(good_state[:-1] + bytes([good_state[-1] ^ 1]))
    with pytest.raises(CorruptFile, match="checksum"):
        run(create(), checkpoint=tmp_path)
    state.write_bytes(good_state[:-9])
    with pytest.raises(CorruptFile, match="bytes instead of"):
        run(create(), checkpoint=tmp_path)
    state.write_bytes(good_state)
    for key, value in {"progress": {}, "file": "../elsewhere", "sha256": None}.items():
        record.write_text(json.dumps(json.loads(good_record) | {key: value}))
        with pytest.raises(CorruptFile):
            run(create(), checkpoint=tmp_path)
    record.write_text(good_record)
    assert len(run(create(), checkpoint=tmp_path)) == 1


def kill_three(sae, rungs):
    """A caller of ``fit`` that makes three latents unable to fire at every rung: the next step resamples them."""

    def on_rung(rung):
        rungs.append(rung)
        with torch.no_grad():
            sae.b_enc[:3] = -1e4

    return on_rung


def test_draws_of_resampling_go_on_where_they_stopped(tmp_path):
    spec = SPEC.model_copy(update={"dead_window_tokens": 1})
    whole, resumed, rungs = create(), create(), []
    run(whole, spec=spec, on_rung=kill_three(whole, rungs))
    first = create()
    with pytest.raises(Crash):
        run(first, spec=spec, stream=CrashingStream(batches(), 110), on_rung=kill_three(first, []), checkpoint=tmp_path)
    saved = json.loads((tmp_path / "checkpoint.json").read_text())["progress"]
    assert (saved["step"], saved["restarted_at"]) == (100, 63)  # between the two resamplings
    run(resumed, spec=spec, on_rung=kill_three(resumed, rungs), checkpoint=tmp_path)
    assert torch.equal(whole.W_dec, resumed.W_dec)
    assert torch.equal(whole.W_enc, resumed.W_enc)


def test_learning_rate_rises_again_after_resampling():
    spec = SPEC.model_copy(update={"dead_window_tokens": 1, "lr_warmup_fraction": 0.5, "lr_decay_fraction": 0.0})
    rungs, calm = [], run(create(resample_dead=False), spec=spec)
    sae = create()
    run(sae, spec=spec, on_rung=kill_three(sae, rungs))
    # resampled after step 63: step index 124 is the 62nd of 125 steps of the new rise
    assert rungs[1].lr == pytest.approx(3e-3 * 62 / 125)
    assert calm[1].lr == pytest.approx(3e-3)
