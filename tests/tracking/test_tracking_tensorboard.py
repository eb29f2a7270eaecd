"""Event files, read back byte by byte as the format is described, not by the package that writes them."""

from __future__ import annotations

import struct

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search import RungRecord, TrialRecord
from vsae_search.tracking import TensorboardListener, require_tensorboard, tensorboard_missing
from vsae_search.tracking import tensorboard as module
from vsae_search.tracking.content import end_content

RUNGS = tuple(
    RungRecord(index=index, fraction=fraction, step=step, tokens=100 * step, metrics={"l0": l0, "delta_ce": l0 / 8})
    for index, (fraction, step, l0) in enumerate([(0.5, 5, 6.0), (1.0, 10, 4.0)])
)
TRIAL = TrialRecord(
    uid="topk-0001",
    architecture="topk",
    number=1,
    params={"k": 4, "lr": 1e-3},
    seed=7,
    state="completed",
    metrics={"l0": 4.0, "delta_ce": 0.5},
    rungs=RUNGS,
    train_s=1.5,
    wall_s=2.0,
    started_at="2026-01-01T00:00:00+00:00",
    ended_at="2026-01-01T00:00:02+00:00",
)


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read(path):
    """Records of the TFRecord format: length, its checksum, data, its checksum."""
    content, events = path.read_bytes(), []
    while content:
        (length, check), data = struct.unpack("<QI", content[:12]), content[12:]
        assert check == masked(content[:8])
        assert struct.unpack("<I", data[length : length + 4]) == (masked(data[:length]),)
        events.append(Event.FromString(data[:length]))
        content = data[length + 4 :]
    return events


def scalars(folder):
    """(tag, step) to value, over all files of a trial in the order in which TensorBoard reads them."""
    found = {}
    for path in sorted(folder.glob("*tfevents*")):
        first, *events = read(path)
        assert first.file_version == "brain.Event:2"
        for event in events:
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    assert (value.tag, event.step) not in found, "written twice"
                    found[value.tag, event.step] = value.simple_value
    return found


def told(listener, rungs=RUNGS, trial=TRIAL):
    listener.on_trial_start(TRIAL.uid, TRIAL.architecture, TRIAL.params)
    for rung in rungs:
        listener.on_rung(TRIAL.uid, rung)
    if trial is not None:
        listener.on_trial_end(trial)


def test_a_trial_is_read_back_with_the_names_and_values_of_mlflow(tmp_path):
    told(TensorboardListener(tmp_path))
    got = scalars(tmp_path / "tensorboard" / TRIAL.uid)
    points = end_content(TRIAL.model_dump(mode="json"), 0).points
    assert got == {(point.key, point.step): pytest.approx(point.value) for point in points}
    assert got["rung/l0", 500] == 6
    assert got["l0", 1000] == 4
    assert got["train_s", 1000] == 1.5


def test_times_and_parameters_are_kept(tmp_path):
    told(TensorboardListener(tmp_path))
    rungs, final = sorted((tmp_path / "tensorboard" / TRIAL.uid).iterdir())
    texts = [value for event in read(rungs) for value in event.summary.value if value.metadata.plugin_data.plugin_name]
    (text,) = texts
    assert text.metadata.plugin_data.plugin_name == "text"
    assert "| k | 4 |" in text.tensor.string_val[0].decode()
    ended = [event for event in read(final) if event.summary.value and event.summary.value[0].tag == "l0"]
    assert ended[0].wall_time == 1767225602.0  # 2026-01-01 00:00:02 UTC


def test_rungs_are_there_while_the_trial_runs(tmp_path):
    listener = TensorboardListener(tmp_path)
    told(listener, trial=None)
    assert scalars(tmp_path / "tensorboard" / TRIAL.uid) == {
        ("rung/l0", 500): 6,
        ("rung/delta_ce", 500): 0.75,
        ("rung/l0", 1000): 4,
        ("rung/delta_ce", 1000): 0.5,
    }
    listener.close()


def test_a_new_attempt_begins_anew(tmp_path):
    listener = TensorboardListener(tmp_path)
    told(listener, rungs=RUNGS[:1], trial=None)
    told(listener)  # the rung is told again by the attempt that goes on from it
    assert scalars(tmp_path / "tensorboard" / TRIAL.uid)["rung/l0", 500] == 6


def test_trials_of_an_earlier_session_are_written_once(tmp_path):
    told(TensorboardListener(tmp_path))
    folder = tmp_path / "tensorboard" / TRIAL.uid
    before = {path: path.read_bytes() for path in folder.iterdir()}
    TensorboardListener(tmp_path).on_trial_end(TRIAL)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    other = TRIAL.model_copy(update={"uid": "topk-0002"})
    TensorboardListener(tmp_path).on_trial_end(other)  # the driver died before it came to that
    assert scalars(folder.parent / "topk-0002") == scalars(folder)


def test_an_uncompleted_trial_leaves_partial_values(tmp_path):
    told(TensorboardListener(tmp_path), rungs=RUNGS[:1], trial=TRIAL.model_copy(update={"state": "stopped"}))
    got = scalars(tmp_path / "tensorboard" / TRIAL.uid)
    assert ("l0", 1000) not in got
    assert got["partial/l0", 1000] == 4


def test_without_the_package_nothing_is_started(tmp_path, monkeypatch):
    assert tensorboard_missing() is None
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "tensorboardX is not installed" in tensorboard_missing()
    with pytest.raises(EnvironmentNotReady, match="tensorboardX is not installed") as refused:
        TensorboardListener(tmp_path)
    assert "[tensorboard]" in refused.value.hint
    with pytest.raises(EnvironmentNotReady):
        require_tensorboard()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    listener = TensorboardListener(tmp_path)
    told(listener)
    assert caplog.text.count("cannot be written") == 1
