"""Faults of single trials: a killed worker, a damaged checkpoint, numbers that are not finite, nothing but failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_helpers import (
    Listener,
    at_gate,
    check_exactly_once,
    close_gate,
    facts,
    gated,
    meanwhile,
    mlflow_runs,
    open_gate,
    resumed_at,
    toy,
    until,
    write_toy,
)

from vsae_search.cli import _console, app
from vsae_search.search import load_sweep, run_sweep
from vsae_search.search import sweep as sweep_module
from vsae_search.search import trial as trial_module
from vsae_search.search.trainable import run_trial

UID = "topk-0000"
ONE = {"search": {"trials": 1}, "architectures": {"topk": toy().model_dump(mode="json")["architectures"]["topk"]}}
RUNGS = {"training": {"num_tokens": 2048, "batch_size": 128, "rungs": [0.25, 0.5, 1.0]}}
DIVERGES = {"d_sae": 16, "lr": 1e30}

pytestmark = [pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(900)]


def kill(folder: Path) -> None:
    """SIGKILL the worker of the trial that waits, as the kernel does when memory runs out."""
    os.kill(at_gate(folder)[UID], signal.SIGKILL)
    (folder / "gate" / f"{UID}.waiting").unlink()
    open_gate(folder)


def run(folder: Path, listener: Listener | None = None, **changes: Any) -> list[Any]:
    run_sweep(toy(**changes), root=folder / "sweeps", listeners=[listener or Listener()])
    return load_sweep(folder / "sweeps" / "toy")[1]


def call(*arguments: str) -> int:
    """The command line, in this process and with its Ray."""
    before, sys.argv = sys.argv, ["vsae_search", *arguments]
    _console.stderr.cache_clear()
    try:
        with pytest.raises(SystemExit) as leaving:
            app.main()
    finally:
        sys.argv = before
        _console.configure(quiet=False, debug=False, no_color=False)
    return int(leaving.value.code or 0)


def report(folder: Path, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Sweep through the command line: the exit code and the numbers of the report."""
    places = ("--root", str(folder / "sweeps"), "--reports", str(folder / "reports"))
    code = call("--quiet", "sweep", str(write_toy(folder, **changes)), *places)
    return code, json.loads((folder / "reports" / "toy" / "report.json").read_text())


def test_killed_worker_goes_on_from_its_rung(folder, undisturbed, monkeypatch):
    """Among others that run on, one worker is killed after its first rung: it is not trained from zero."""
    close_gate(folder)
    monkeypatch.setattr(sweep_module, "run_trial", gated(str(folder)))
    listener = Listener()

    def act() -> None:
        until(lambda: UID in at_gate(folder))
        kill(folder)

    with meanwhile(act):
        trials = run(folder, listener, search={"trials": 4})
    assert {trial.uid: trial.attempt for trial in trials if trial.attempt} == {UID: 1}
    assert resumed_at(folder, UID) == [8]
    assert facts(folder / "sweeps" / "toy") == [fact for fact in undisturbed if fact[0][-1] in "01"]
    assert sorted(uid for what, uid in listener.told if what == "end") == [trial.uid for trial in trials]


@pytest.fixture(scope="module")
def whole(shared_ray, tmp_path_factory) -> list[Any]:
    """One trial with three rungs that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, **ONE, **RUNGS)
    return facts(folder / "sweeps" / "toy")


@pytest.mark.parametrize(
    ("damaged", "goes_on_from"),
    [
        (("state-8.safetensors",), [4]),
        (("checkpoint.json",), [4]),
        (("state-8.safetensors", "state-4.safetensors"), []),
    ],
    ids=["last state", "last record", "both states"],
)
def test_truncated_checkpoint(folder, whole, monkeypatch, damaged, goes_on_from):
    """The checksum tells; training goes on from the checkpoint before, or from the start when there is none."""
    close_gate(folder, after=2)
    monkeypatch.setattr(sweep_module, "run_trial", gated(str(folder)))

    def act() -> None:
        until(lambda: UID in at_gate(folder))
        for name in damaged:
            path = folder / "sweeps" / "toy" / "trials" / UID / "checkpoint" / name
            os.truncate(path, path.stat().st_size // 2)
        kill(folder)

    with meanwhile(act):
        (trial,) = run(folder, **ONE, **RUNGS)
    assert (trial.state, trial.attempt) == ("completed", 1)
    assert resumed_at(folder, UID) == goes_on_from
    assert facts(folder / "sweeps" / "toy") == whole


def dies_before_rename(folder: str, name: str) -> Any:
    """A worker that is killed when the second file of a name is written and not yet renamed."""
    inner = gated(folder)

    def run(config: dict[str, Any], context: Any) -> None:
        import os
        import signal
        from pathlib import Path

        rename, marks = os.replace, Path(folder) / "gate"

        def replace(source: Any, target: Any) -> None:
            if Path(target).name == name:
                mark = next(mark for mark in (marks / "first", marks / "second", marks / "more") if not mark.exists())
                if mark.name != "more":
                    mark.touch()
                if mark.name == "second":
                    os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.replace = replace
        try:
            inner(config, context)
        finally:
            os.replace = rename

    return run


def test_crash_between_write_and_rename(folder, whole, monkeypatch):
    """What was there before stays whole; the half-made file is neither read nor left behind."""
    (folder / "gate").mkdir()
    monkeypatch.setattr(sweep_module, "run_trial", dies_before_rename(str(folder), "checkpoint.json"))
    (trial,) = run(folder, **ONE, **RUNGS)
    assert (folder / "gate" / "second").exists()
    assert (trial.state, trial.attempt) == ("completed", 1)
    assert resumed_at(folder, UID) == [4]
    assert facts(folder / "sweeps" / "toy") == whole
    assert list((folder / "sweeps").rglob("*.tmp")) == []


def test_architecture_that_only_diverges_is_given_up(folder):
    """Non-finite losses are not repeated; after five the rest of the budget is cancelled, and the sweep goes on."""
    directory = folder / "sweeps" / "toy"
    topk = ONE["architectures"]["topk"]
    changes = {"architectures": {"topk": topk, "relu": DIVERGES}, "resources": {"max_concurrent": 1}}
    search = {"trials": 16, "sampler": "random", "early_stopping": "off"}
    code, told = report(folder, **changes, search=search)
    assert code == 4
    record, trials = load_sweep(directory)
    assert record.status == "completed"
    states = [(trial.architecture, trial.state, trial.attempt) for trial in trials]
    assert states == [("relu", "diverged", 0)] * 5 + [("topk", "completed", 0)] * 8
    assert {name: plan.given_up_after for name, plan in record.architectures.items()} == {"topk": None, "relu": 5}
    findings = {entry["check"]: entry for entry in told["cards"]["health"]["findings"]}
    assert "given up after 5 trials" in findings["given_up"]["text"]
    assert "3 trials of its budget not run" in findings["given_up"]["text"]
    assert not [row for row in told["trials"] if row["architecture"] == "relu" and row["on_frontier"]]
    assert {found[0]["status"] for uid, found in mlflow_runs(directory / "mlflow.db").items() if "relu" in uid} == {
        "FAILED"
    }
    check_exactly_once(directory)

    # the same command comes to the same end; with a larger limit the sweep goes on
    assert report(folder, **changes, search=search)[0] == 4
    assert len(load_sweep(directory)[1]) == 13
    report(folder, **changes, search={**search, "max_failures": None})
    assert len(load_sweep(directory)[1]) == 16
    assert load_sweep(directory)[0].architectures["relu"].given_up_after is None


def test_sweep_of_diverged_trials_reports(folder):
    code, told = report(folder, architectures={"relu": DIVERGES}, search={"trials": 2, "sampler": "random"})
    assert code == 4
    assert [row["state"] for row in told["trials"]] == ["diverged"] * 2
    assert told["architectures"][0]["frontier"] == []


def test_sweep_of_one_trial_reports(folder):
    code, told = report(folder, **ONE)
    assert code == 0
    assert told["architectures"][0]["frontier"] == [UID]


def test_sweep_without_a_trial_reports(folder, monkeypatch):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    places = ("--root", str(folder / "sweeps"), "--reports", str(folder / "reports"))
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "run_session", interrupt)
        assert call("--quiet", "sweep", str(write_toy(folder)), *places) == 130
    assert call("--quiet", "report", "toy", *places) == 0
    told = json.loads((folder / "reports" / "toy" / "report.json").read_text())
    assert (told["trials"], told["sweep"]["status"]) == ([], "interrupted")
    shutil.rmtree(folder / "reports")


def test_an_edited_search_space_is_refused_with_the_difference(folder, capsys):
    places = ("--root", str(folder / "sweeps"), "--reports", str(folder / "reports"))
    assert report(folder, **ONE)[0] == 0
    before = facts(folder / "sweeps" / "toy")
    edited = folder / "sweeps" / "toy" / "space.yaml"
    text = edited.read_text()
    edited.write_text(text.replace("d_sae: 16", "d_sae: 24"))
    assert edited.read_text() != text
    capsys.readouterr()
    assert call("resume", "toy", *places) == 2
    assert "architectures.topk.d_sae.value: was 16, is 24" in capsys.readouterr().err.replace(
        "d_sae: was", "d_sae.value: was"
    )
    edited.write_text(text)
    assert call("--quiet", "resume", "toy", "--trials", "2", *places) == 0
    assert [fact[0] for fact in facts(folder / "sweeps" / "toy")] == [UID, "topk-0001"]
    assert facts(folder / "sweeps" / "toy")[:1] == before


def test_lost_gpu_costs_a_worker_and_no_trial(tmp_path, monkeypatch):
    """A CUDA error leaves the process unusable: another one repeats the trial, and the last record names the card."""

    def failing(config, context):
        attempts = context.directory / "attempts"
        attempts.mkdir(exist_ok=True)
        (attempts / f"{config['uid']}-{config['attempt']}").write_text(str(os.getpid()))
        if (config["uid"] == UID and config["attempt"] == 0) or config["uid"] == "topk-0001":
            monkeypatch.setattr(trial_module, "fit", unwell)
        run_trial(config, context)

    def unwell(*_, **__):
        raise RuntimeError("CUDA error: an uncorrectable ECC error was encountered")

    monkeypatch.setattr(sweep_module, "run_trial", failing)
    search = {"trials": 3, "sampler": "random", "max_retries": 1}
    trials = {trial.uid: trial for trial in run(tmp_path, **(ONE | {"search": search}))}
    assert {uid: (trial.state, trial.attempt) for uid, trial in trials.items()} == {
        UID: ("completed", 1),
        "topk-0001": ("failed", 1),
        "topk-0002": ("completed", 0),
    }
    assert trials["topk-0001"].error.startswith("the GPU failed on ")
    processes = [path.read_text() for path in sorted((tmp_path / "sweeps" / "toy").rglob("attempts/topk-000[01]-*"))]
    assert len(set(processes)) == len(processes) == 4
