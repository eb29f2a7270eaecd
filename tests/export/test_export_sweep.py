"""Exporting a sweep directory: what is chosen, and what happens to a folder that exists."""

from __future__ import annotations

import json
import shutil

import pytest
from export_cases import D_IN, D_SAE, SCALE, make

from vsae_search import saes
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.export import export_sweep
from vsae_search.export.select import select_trials
from vsae_search.search import Configuration, ConfirmRecord, SweepRecord, TrialRecord, load_sweep
from vsae_search.search.records import write_record

POINTS = {  # uid to state, L0, delta-CE
    "relu-0000": ("completed", 8.0, 0.5),
    "relu-0001": ("completed", 4.0, 0.9),
    "relu-0002": ("completed", 9.0, 0.6),
    "relu-0003": ("diverged", None, None),
    "topk-0000": ("completed", 3.0, 0.4),
    "topk-0001": ("stopped", 2.0, 0.1),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of six trials, four of which have an autoencoder."""
    directory = tmp_path_factory.mktemp("root") / "small"
    directory.mkdir()
    record = SweepRecord(
        name="small",
        digest="ab",
        seed=0,
        status="completed",
        loss_name="delta-CE",
        loss_unit="nats",
        subject={"kind": "language_model", "model": "m", "hook": "blocks.0.hook_mlp_out", "d_in": D_IN},
        bank={"scale": SCALE, "key": "k", "evaluation_digest": "e"},
        space={"training": {"batch_size": 64}},
    )
    write_record(directory / "sweep.json", record)
    for uid, (state, l0, delta_ce) in POINTS.items():
        architecture, number = uid.split("-")
        folder = directory / "trials" / uid
        folder.mkdir(parents=True)
        metrics = {"l0": l0, "delta_ce": delta_ce} if l0 is not None else {}
        trial = TrialRecord(
            uid=uid,
            architecture=architecture,
            number=int(number),
            params={"d_sae": D_SAE, "lr": 1e-3},
            seed=1,
            state=state,
            metrics=metrics,
        )
        write_record(folder / "record.json", trial)
        if state == "completed":
            saes.save(make(architecture), folder)
    return directory


def uids(directory, wanted):
    return [trial.uid for trial in select_trials(directory, wanted)]


def test_the_frontier_of_every_architecture_is_chosen_by_rising_l0(finished):
    assert uids(finished, "pareto") == ["relu-0001", "relu-0000", "topk-0000"]
    assert uids(finished, "all") == ["relu-0001", "relu-0000", "relu-0002", "topk-0000"]
    assert uids(finished, "topk-0000, relu-0002") == ["topk-0000", "relu-0002"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("relu-0009", "no trial 'relu-0009'"),
        ("paretto", "did you mean 'pareto'"),
        ("relu-0003", "it is diverged"),
        ("topk-0001", "it is stopped"),
        (",", "names no trial"),
        ("confirmed-pareto", "has not been confirmed"),
    ],
)
def test_a_selection_that_names_nothing_is_refused(finished, wanted, message):
    with pytest.raises(UserInputError) as error:
        select_trials(finished, wanted)
    assert message in str(error.value)


def test_an_export_is_written_once_and_then_unchanged(finished, tmp_path):
    first = export_sweep(finished, "saelens", output=tmp_path)
    assert [one.state for one in first.exported] == ["written"] * 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = export_sweep(finished, "saelens", output=tmp_path, select="all")
    assert [one.state for one in second.exported] == ["unchanged", "unchanged", "written", "unchanged"]
    assert {path: time for path, time in before.items() if path != tmp_path}.items() <= {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")
    }.items()
    config = json.loads((tmp_path / "topk-0000" / "cfg.json").read_text())
    assert config["metadata"]["vsae_search"]["sweep"] == "small"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "file"])
def test_a_folder_with_anything_else_stops_the_export_before_it_writes(finished, tmp_path, damage):
    export_sweep(finished, "saelens", output=tmp_path, select="topk-0000")
    folder = tmp_path / "topk-0000"
    if damage == "changed":
        (folder / "cfg.json").write_text("{}")
    elif damage == "missing":
        (folder / "cfg.json").unlink()
    elif damage == "more":
        (folder / "mine.txt").write_text("precious")
    else:
        shutil.rmtree(folder)
        folder.write_text("precious")
    with pytest.raises(UserInputError, match="exists and is not this autoencoder"):
        export_sweep(finished, "saelens", output=tmp_path, select="all")
    assert [path.name for path in tmp_path.iterdir()] == ["topk-0000"]


def test_what_has_trained_no_autoencoders_has_none_to_export(finished, tmp_path):
    record, _ = load_sweep(finished)
    (tmp_path / "experiment").mkdir()
    write_record(tmp_path / "experiment" / "sweep.json", record.model_copy(update={"bank": {}}))
    with pytest.raises(UserInputError, match="no autoencoders"):
        export_sweep(tmp_path / "experiment", "saelens", output=tmp_path / "out")


def test_another_format_in_the_same_folder_is_refused(finished, tmp_path):
    export_sweep(finished, "saelens", output=tmp_path, select="topk-0000")
    with pytest.raises(UserInputError, match="different"):
        export_sweep(finished, "dictionary_learning", output=tmp_path, select="topk-0000")


def test_a_write_that_fails_half_way_leaves_nothing(finished, tmp_path, monkeypatch):
    from vsae_search.export import sweep

    written = []

    def full(path, content, **options):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(sweep, "write_bytes", full)
    with pytest.raises(EnvironmentNotReady, match="No space left"):
        export_sweep(finished, "saelens", output=tmp_path / "out", select="topk-0000")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_frontier_of_confirmed_runs_can_be_chosen(finished, tmp_path):
    directory = tmp_path / "small"
    shutil.copytree(finished, directory)
    measured = {"relu-0000": [(8.0, 0.7), (8.0, 0.9)], "relu-0002": [(7.0, 0.5), (7.0, 0.7)], "topk-0000": [(3.0, 0.4)]}
    sweep, trials = load_sweep(directory)
    fields = sweep.model_dump() | {"name": "small/confirm", "bank": {}}
    chosen = tuple(Configuration(uid=uid, architecture=uid[:4], rank=0) for uid in measured)
    confirm = ConfirmRecord(**fields, margin=1, seeds=(11, 12), configurations=chosen)
    (directory / "confirm").mkdir()
    write_record(directory / "confirm" / "confirm.json", confirm)
    by_uid = {trial.uid: trial for trial in trials}
    for uid, points in measured.items():
        for number, (l0, delta_ce) in enumerate(points):
            name = f"{uid}-r{number:02d}"
            folder = directory / "confirm" / "trials" / name
            folder.mkdir(parents=True)
            changes = {"uid": name, "number": number, "metrics": {"l0": l0, "delta_ce": delta_ce}}
            write_record(folder / "record.json", by_uid[uid].model_copy(update=changes))
    assert uids(directory, "pareto") == ["relu-0001", "relu-0000", "topk-0000"]
    assert uids(directory, "confirmed-pareto") == ["relu-0002", "topk-0000"]  # relu-0000 is worse in both means
