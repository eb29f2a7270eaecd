from __future__ import annotations

import json
import math

import pytest

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.search import RungRecord, SweepRecord, TrialRecord, load_sweep
from vsae_search.search.records import SWEEP_FILE, TRIAL_FILE, read_record, trial_directory, write_record, write_text


def trial(uid: str = "topk-0003", **changes) -> TrialRecord:
    rung = RungRecord(index=0, fraction=0.5, step=10, tokens=640, metrics={"l0": 3.0})
    values = dict(uid=uid, architecture="topk", number=3, params={"k": 4, "tied": True}, seed=11, state="completed")
    return TrialRecord(**{**values, "metrics": {"l0": 4.0, "delta_ce": 0.1}, "rungs": (rung,), **changes})


def test_a_sweep_is_read_back_as_it_was_written(tmp_path):
    sweep = SweepRecord(name="s", digest="d", seed=0, status="running", space={"a": [1, 2.5, None]})
    write_record(tmp_path / SWEEP_FILE, sweep)
    records = [trial("topk-0000"), trial("relu-0001", state="diverged", metrics={}, error="loss is nan")]
    for record in records:
        path = trial_directory(tmp_path, record.uid) / TRIAL_FILE
        path.parent.mkdir(parents=True)
        write_record(path, record)
    trial_directory(tmp_path, "topk-0009").mkdir()  # running: a directory, no record yet
    assert load_sweep(tmp_path) == (sweep, [records[1], records[0]])


def test_non_finite_numbers_stay_valid_json_and_come_back(tmp_path):
    write_record(tmp_path / "r.json", trial(metrics={"l0": math.inf, "mcc": math.nan}))

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    back = read_record(tmp_path / "r.json", TrialRecord)
    assert back.metrics["l0"] == math.inf
    assert math.isnan(back.metrics["mcc"])


def test_types_of_parameters_survive(tmp_path):
    params = {"k": 4, "lr": 1.0, "tied": True, "mode": None, "name": "1"}
    write_record(tmp_path / "r.json", trial(params=params))
    back = read_record(tmp_path / "r.json", TrialRecord).params
    assert back == params
    assert {key: type(value) for key, value in back.items()} == {key: type(value) for key, value in params.items()}


def test_no_sweep(tmp_path):
    with pytest.raises(UserInputError, match="no sweep in"):
        load_sweep(tmp_path)


def test_a_torn_record_is_named(tmp_path):
    write_text(tmp_path / SWEEP_FILE, '{"name": "s"')
    with pytest.raises(CorruptFile, match=r"sweep\.json"):
        load_sweep(tmp_path)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_text(path, "old")

    def crash(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("vsae_search.atomic.os.replace", crash)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
