"""``confirm`` on the command line: what it prints, what MLflow gets, and how it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlflow
import pytest

from vsae_search.cli import _console, app
from vsae_search.cli._confirm import plan_as_text, summarise, summary_as_text
from vsae_search.errors import Terminated
from vsae_search.frontier import hypervolume
from vsae_search.report.confirmed import read_confirmation
from vsae_search.search import ReferenceRecord, load_confirm, load_sweep, pair_with_search
from vsae_search.search.records import write_record
from vsae_search.search.resources.cluster import connected
from vsae_search.space import ResourcesSpec

SPACE = """
name: tiny
subject:
  type: directions
  d_in: 8
  features: {count: 12, probability: 0.1}
activations: {num_tokens: 2048, evaluation_tokens: 512, calibration_tokens: 256, shard_tokens: 512}
training: {num_tokens: 2048, batch_size: 128, rungs: [1.0]}
shared: {d_sae: 16, lr: {log: [1e-3, 1e-2]}}
architectures:
  relu: {l1_coefficient: {log: [0.3, 3]}}
  topk: {k: {choice: [1, 2, 4]}}
search: {trials: 4, sampler: qmc}
"""


def call(*arguments: str) -> int:
    before, sys.argv = sys.argv, ["vsae_search", *arguments]
    _console.stderr.cache_clear()
    try:
        with pytest.raises(SystemExit) as leaving:
            app.main()
    finally:
        sys.argv = before
        _console.configure(quiet=False, debug=False, no_color=False)
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module", autouse=True)
def _ray(tmp_path_factory):
    with connected(ResourcesSpec()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSAE_SEARCH_REPORTS", str(tmp_path_factory.mktemp("reports")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a sweep that was confirmed with two seeds, through the command line."""
    folder = tmp_path_factory.mktemp("confirmed")
    (folder / "space.yaml").write_text(SPACE)
    root = folder / "sweeps"
    places = ("--root", str(root), "--reports", str(folder / "reports"))
    assert call("--quiet", "sweep", str(folder / "space.yaml"), *places) == 0
    shutil.copytree(root, folder / "unconfirmed")
    assert call("--quiet", "confirm", "tiny", "--seeds", "2", *places) == 0
    return root


def test_the_report_is_written_again_and_added_to_the_run_of_the_sweep(root, capsys):
    written = json.loads((root.parent / "reports" / "tiny" / "report.json").read_text())
    assert {len(one["replicates"]) for one in written["confirmation"]["configurations"]} == {2}
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'tiny' / 'mlflow.db'}")
    sweeps = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "tags.`vsae.kind` = 'sweep'")
    assert len(sweeps) == 1
    kept = {one.path: one.file_size for one in client.list_artifacts(sweeps[0].info.run_id, "report")}
    assert kept == {
        f"report/{name}": (root.parent / "reports" / "tiny" / name).stat().st_size
        for name in ("report.html", "report.json")
    }


@pytest.fixture
def unconfirmed(root, tmp_path) -> Path:
    """A copy of the folder as it was before."""
    return Path(shutil.copytree(root.parent / "unconfirmed", tmp_path / "sweeps"))


def replicate_runs(root: Path):
    mlflow.set_tracking_uri(f"sqlite:///{root / 'tiny' / 'mlflow.db'}")
    table = mlflow.search_runs(experiment_names=["tiny"])
    return table[table["tags.vsae.kind"] == "replicate"], table[table["tags.vsae.kind"] == "confirm"]


def test_mlflow_has_one_child_run_per_training(root):
    replicates = {one.uid: one for one in load_confirm(root / "tiny")[1]}
    runs, parents = replicate_runs(root)
    assert list(parents["tags.mlflow.runName"]) == ["tiny/confirm"]
    assert sorted(runs["tags.vsae.trial_uid"]) == sorted(replicates)
    assert set(runs["tags.mlflow.parentRunId"]) == set(parents["run_id"])
    assert set(runs["status"]) == {"FINISHED"}
    for _, run in runs.iterrows():
        record = replicates[run["tags.vsae.trial_uid"]]
        assert run["tags.vsae.configuration"] == record.uid.rsplit("-r", 1)[0]
        assert int(run["tags.vsae.replicate"]) == record.number
        assert run["metrics.delta_ce"] == pytest.approx(record.metrics["delta_ce"])
        assert int(run["params.seed"]) == record.seed


def test_the_same_command_again_trains_nothing_and_says_the_same(root, capsys):
    before = (root / "tiny" / "confirm" / "trials").stat().st_mtime_ns
    runs = len(replicate_runs(root)[0])
    capsys.readouterr()
    assert call("--quiet", "confirm", "tiny", "--seeds", "2", "--root", str(root)) == 0
    told = capsys.readouterr().out
    assert (root / "tiny" / "confirm" / "trials").stat().st_mtime_ns == before
    assert len(replicate_runs(root)[0]) == runs

    lines = told.splitlines()
    record, replicates = load_confirm(root / "tiny")
    for row, line in zip(("relu", "topk"), lines[1:3], strict=True):
        name, uid, seeds, *_ = line.split()
        one = next(c for c in pair_with_search(record, load_sweep(root / "tiny")[1], replicates) if c.uid == uid)
        assert (name, one.architecture, seeds) == (row, row, "2/2")
        assert f"{one.mean('delta_ce'):.3g} ± {one.spread('delta_ce'):.2g}" in line
        assert line.split()[-1] == f"{one.gap('delta_ce'):+.2g}"
    assert "use these trainings only" in told


def test_the_table_shows_the_best_of_the_search_not_of_the_replicates(root):
    sweep, trials = load_sweep(root / "tiny")
    record, replicates = load_confirm(root / "tiny")
    rows = summarise(pair_with_search(record, trials, replicates), sweep.reference)
    corner = (sweep.reference.l0, sweep.reference.delta_ce)
    for row in rows:
        areas = {
            trial.uid: hypervolume([[trial.metrics["l0"], trial.metrics["delta_ce"]]], corner).value
            for trial in trials
            if trial.architecture == row["architecture"] and trial.uid in {c.uid for c in record.configurations}
        }
        assert row["configuration"] == max(areas, key=areas.__getitem__)


def test_json_is_one_object_with_every_architecture(root, capsys):
    capsys.readouterr()
    assert call("--quiet", "confirm", "tiny", "--seeds", "2", "--root", str(root), "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["architecture"] for row in told["architectures"]] == ["relu", "topk"]
    assert {row["states"]["completed"] for row in told["architectures"]} <= {2, 4}


def test_a_dry_run_prints_the_plan_and_leaves_nothing(unconfirmed, capsys):
    capsys.readouterr()
    assert call("confirm", "tiny", "--seeds", "3", "--dry-run", "--root", str(unconfirmed), "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    count = sum(len(one["configurations"]) for one in told["architectures"].values())
    assert (told["trainings"], told["kept"], told["seeds"]) == (3 * count, 0, 3)
    assert told["estimated_s"] > 0
    assert any("needs 6" in text for text in told["warnings"])
    assert call("confirm", "tiny", "--dry-run", "--root", str(unconfirmed)) == 0
    text = capsys.readouterr().out
    assert f"6 seeds · {6 * count} trainings" in text
    assert "Nothing was started" in text
    assert not (unconfirmed / "tiny" / "confirm").exists()


def test_a_dry_run_counts_what_is_there(root, capsys):
    capsys.readouterr()
    assert call("confirm", "tiny", "--seeds", "3", "--dry-run", "--root", str(root), "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] == 2 * told["trainings"]
    assert f"{told['kept']} are there · {told['trainings']} trainings" in plan_as_text(told)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tinny",), "Did you mean 'tiny'?"),
        (("../tiny",), "no sweep called"),
        (("tiny", "--seeds", "1"), "1 seed cannot show a spread"),
        (("tiny", "--architectures", "relu,topl"), "did you mean topk?"),
        (("tiny", "--margin", "-1"), "margin"),
        (("tiny", "--max-configurations", "0"), "no configuration"),
    ],
)
def test_wrong_input_ends_with_2_and_a_hint(unconfirmed, capsys, arguments, complaint):
    assert call("confirm", *arguments, "--root", str(unconfirmed)) == 2
    assert complaint in capsys.readouterr().err
    assert not (unconfirmed / "tiny" / "confirm").exists()


@pytest.mark.parametrize(("ending", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interruption_says_how_to_go_on(unconfirmed, monkeypatch, capsys, ending, status):
    def interrupted(*_, **__):
        raise ending

    monkeypatch.setattr("vsae_search.search.confirm.run.run_confirm", interrupted)
    assert call("confirm", "tiny", "--root", str(unconfirmed)) == status
    assert f"confirm tiny --root {unconfirmed}" in capsys.readouterr().err.replace("\n", " ")


def test_an_architecture_of_which_nothing_came_ends_with_4(root, tmp_path, capsys):
    copied = Path(shutil.copytree(root, tmp_path / "sweeps"))
    for one in load_confirm(copied / "tiny")[1]:
        if one.architecture == "topk":
            lost = one.model_copy(update={"state": "diverged", "metrics": {}, "error": "the loss is not finite"})
            write_record(copied / "tiny" / "confirm" / "trials" / one.uid / "record.json", lost)
    capsys.readouterr()
    assert call("confirm", "tiny", "--seeds", "2", "--root", str(copied)) == 4
    told = capsys.readouterr()
    assert "no training of topk was completed" in told.err
    assert "trainings diverged: " in told.out


def test_the_report_reads_the_same_numbers(root):
    read = read_confirmation(root / "tiny")
    record, replicates = load_confirm(root / "tiny")
    assert read_confirmation(root.parent / "unconfirmed" / "tiny") is None
    assert (read.status, read.seeds, read.num_rows) == ("completed", record.seeds, 512)
    assert read.states == {"completed": len(replicates)}
    topk = read.replicates("topk")
    assert topk.seeds == tuple(sorted(record.seeds))
    assert topk.points_RN2.shape == (2, sum(c.architecture == "topk" for c in record.configurations), 2)
    for row in read.configurations:
        values = [one.metrics["delta_ce"] for one in replicates if one.uid.startswith(f"{row.uid}-r")]
        assert row.mean.delta_ce == pytest.approx(sum(values) / 2)
        assert row.gap.delta_ce == pytest.approx(row.search.delta_ce - row.mean.delta_ce)


def test_a_summary_without_a_single_completed_training():
    assert summarise([], ReferenceRecord(l0=1, delta_ce=1, source="given")) == []
    assert "use these trainings only" in summary_as_text([], "loss (1)")
