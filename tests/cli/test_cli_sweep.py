"""One small sweep through the command line: what it leaves behind, and that every part tells the same story."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest

from vsae_search.cli import _console, app
from vsae_search.frontier import nondominated

SPACE = """
name: tiny
subject:
  type: directions
  d_in: 8
  features: {count: 12, probability: 0.1, sets: [{kind: correlated, size: 2}, {kind: anticorrelated, size: 2}]}
activations: {num_tokens: 8192, evaluation_tokens: 1000, calibration_tokens: 1000, shard_tokens: 4096}
training: {num_tokens: 16384, batch_size: 256}
shared: {d_sae: 16, lr: {log: [1e-3, 1e-2]}}
architectures:
  relu: {l1_coefficient: {log: [0.3, 3]}}
  topk: {k: {choice: [1, 2, 4]}}
search: {trials: 6, sampler: qmc}
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


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder in which ``sweep`` has run to its end."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "space.yaml").write_text(SPACE)
    assert call("--quiet", "sweep", str(folder / "space.yaml"), *places(folder)) == 0
    return folder


def places(folder: Path) -> tuple[str, ...]:
    return ("--root", str(folder / "sweeps"), "--reports", str(folder / "reports"))


@pytest.fixture(scope="module")
def runs(swept):
    """The child runs of the sweep, as a user of MLflow gets them."""
    mlflow.set_tracking_uri(f"sqlite:///{swept / 'sweeps' / 'tiny' / 'mlflow.db'}")
    table = mlflow.search_runs(search_all_experiments=True)
    return table[table["tags.vsae.trial_uid"].notna()]


def report(folder: Path) -> dict:
    return json.loads((folder / "reports" / "tiny" / "report.json").read_text())


def test_the_report_and_its_companions_are_there(swept):
    here = swept / "reports" / "tiny"
    assert (here / "report.html").stat().st_size > 1_000_000  # the drawing library is inside: it opens offline
    for name in ("figures/frontier.png", "figures/frontier.svg", "tables/frontier.csv", "tables/trials.csv"):
        assert (here / name).stat().st_size > 0


def test_mlflow_has_one_finished_run_per_trial_with_its_parameters(swept, runs):
    records = [json.loads(path.read_text()) for path in (swept / "sweeps/tiny/trials").glob("*/record.json")]
    assert len(records) == 6
    assert sorted(runs["tags.vsae.trial_uid"]) == sorted(record["uid"] for record in records)
    assert set(runs["status"]) == {"FINISHED"}
    for record in records:
        run = runs[runs["tags.vsae.trial_uid"] == record["uid"]].iloc[0]
        assert run["params.architecture"] == record["architecture"]
        for name, value in record["params"].items():
            assert float(run[f"params.{name}"]) == pytest.approx(float(value))
        assert run["metrics.l0"] == pytest.approx(record["metrics"]["l0"])


def test_mlflow_gives_the_frontier_of_the_report(swept, runs):
    told = report(swept)
    for architecture in ("relu", "topk"):
        table = runs[runs["params.architecture"] == architecture]
        points = table[["metrics.l0", "metrics.delta_ce"]].to_numpy(np.float64)
        ours = set(table["tags.vsae.trial_uid"][nondominated(points)])
        theirs = {
            row["uid"] for row in told["trials"] if row["architecture"] == architecture and row["on_frontier"] is True
        }
        assert ours == theirs
        assert ours


def test_the_same_command_again_adds_nothing_and_ends_well(swept, runs):
    before = (swept / "sweeps/tiny/trials").stat().st_mtime_ns
    assert call("--quiet", "sweep", str(swept / "space.yaml"), *places(swept)) == 0
    assert (swept / "sweeps/tiny/trials").stat().st_mtime_ns == before
    again = mlflow.search_runs(search_all_experiments=True)
    assert len(again[again["tags.vsae.trial_uid"].notna()]) == len(runs)


def test_a_changed_space_is_refused_with_what_changed(swept, capsys):
    changed = swept / "changed.yaml"
    changed.write_text(SPACE.replace("d_sae: 16", "d_sae: 12"))
    assert call("sweep", str(changed), *places(swept)) == 2
    assert "d_sae" in capsys.readouterr().err


def test_the_dry_run_tells_a_changed_space_from_one_that_goes_on(swept, capsys):
    same, changed = swept / "space.yaml", swept / "changed_again.yaml"
    changed.write_text(SPACE.replace("d_sae: 16", "d_sae: 12"))
    assert call("sweep", str(same), "--dry-run", *places(swept)) == 0
    assert "(goes on;" in capsys.readouterr().out
    assert call("sweep", str(changed), "--dry-run", *places(swept)) == 2
    told = capsys.readouterr()
    assert "(refused: the search space has changed;" in told.out
    assert "d_sae" in told.err


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(condition, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


def test_ui_serves_and_a_signal_leaves_nothing_behind(swept):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vsae_search", "ui", "tiny", "--root", str(swept / "sweeps"), "--port", str(port)]
    with (swept / "ui.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        assert wait_until(lambda: answers(port) or server.poll() is not None, 120)
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)  # to the one process that the user knows
        assert server.wait(30) in (0, -signal.SIGTERM)
        assert not answers(port)
        assert " INFO " not in (swept / "ui.log").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_the_report_can_be_written_again(swept, capsys):
    first = report(swept)
    assert call("report", "tiny", *places(swept)) == 0
    assert capsys.readouterr().out.strip() == str(swept / "reports" / "tiny" / "report.html")
    again = report(swept)
    assert [row["uid"] for row in again["trials"]] == [row["uid"] for row in first["trials"]]


def test_ui_refuses_a_sweep_that_is_not_there(swept, capsys):
    assert call("ui", "other", "--root", str(swept / "sweeps")) == 2
    assert "tiny" in capsys.readouterr().err


def test_an_architecture_without_a_completed_trial_ends_with_4(swept, capsys):
    space = swept / "barren.yaml"
    bad = SPACE.replace("name: tiny", "name: barren").replace("trials: 6", "trials: 2")
    space.write_text(bad.replace("relu: {l1_coefficient: {log: [0.3, 3]}}", "relu: {lr: 1.0e+30}"))
    assert call("sweep", str(space), *places(swept)) == 4
    told = capsys.readouterr()
    assert "no trial of relu was completed" in told.err
    assert told.out.strip().endswith("report.html")


def parameters(folder: Path, sweep: str, pattern: str = "*") -> set[str]:
    """Architecture and hyper-parameters of the trials of a sweep."""
    records = (folder / "sweeps" / sweep / "trials").glob(f"{pattern}/record.json")
    trials = [json.loads(path.read_text()) for path in records]
    return {json.dumps([trial["architecture"], trial["params"]], sort_keys=True) for trial in trials}


def test_a_sweep_begins_with_what_fits_of_an_earlier_frontier(swept, capsys):
    (swept / "warm.yaml").write_text(SPACE.replace("name: tiny", "name: warm").replace(", sampler: qmc", ""))
    arguments = ("sweep", str(swept / "warm.yaml"), "--set", "seed=1", *places(swept))
    assert call(*arguments, "--from", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (swept / "sweeps" / "warm").exists()
    assert call("--quiet", *arguments, "--from", "tiny") == 0
    first = parameters(swept, "warm", "*-0000")
    assert len(first) == 2
    assert first <= parameters(swept, "tiny")
    assert not parameters(swept, "warm") <= parameters(swept, "tiny")
