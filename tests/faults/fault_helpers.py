"""A toy sweep of short trials, driver processes that faults happen to, and what has to be true afterwards."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from vsae_search.search import load_sweep
from vsae_search.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 300.0
TRIALS = 12
VALUES: dict[str, Any] = {
    "name": "toy",
    "seed": 1,
    "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
    "activations": {"num_tokens": 2048, "evaluation_tokens": 512, "calibration_tokens": 256, "shard_tokens": 1024},
    "training": {"num_tokens": 2048, "batch_size": 128, "rungs": [0.5, 1.0]},
    "architectures": {
        "topk": {"d_sae": 16, "k": {"choice": [1, 2, 4]}, "lr": {"log": [1e-3, 1e-2]}},
        "relu": {"d_sae": 16, "lr": {"log": [1e-3, 1e-2]}},
    },
    "search": {"trials": TRIALS, "sampler": "qmc"},
    "resources": {"max_concurrent": 2},
}


def toy(**changes: Any) -> SearchSpace:
    """Two architectures, twelve trials of sixteen steps, two at a time; changes of ``search`` are merged."""
    search = {**VALUES["search"], **changes.pop("search", {})}
    return SearchSpace.model_validate({**VALUES, "search": search, **changes})


def write_toy(folder: Path, **changes: Any) -> Path:
    """The search space as a file; JSON is YAML."""
    file = folder / "toy.yaml"
    file.write_text(json.dumps({**VALUES, **changes}))
    return file


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.02)
    return found


# Importing everything takes longer than the sweep: one process does it, and every driver is a fork of that one. It
# starts with the first driver and so knows, from the environment, how the Ray of this process lets callers in.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["vsae_search.cli.app", "vsae_search.report", "vsae_search.search.sweep", "vsae_search.tracking", "mlflow.tracking"]
)


def run_command_line(folder: str, log: str, arguments: list[str]) -> None:
    """What a driver process does: the command line, with trials that wait at the gate."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["vsae_search", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in its background ignores it
    from vsae_search.cli.app import main
    from vsae_search.search import sweep

    sweep.run_trial = gated(folder)
    main()


class Driver:
    """The command line as a process of its own, in a folder of its own.

    It joins the Ray of this process, unless ``alone``: then it starts one of its own.

    Args:
        folder: Where sweeps, reports, gates and the log are kept.
        arguments: Of the command line.
        alone: Whether to start a Ray of its own.
    """

    def __init__(self, folder: Path, *arguments: str, alone: bool = False) -> None:
        self.folder = folder
        self.log = folder / f"driver-{time.monotonic_ns()}.log"
        places = ("--root", str(folder / "sweeps"))
        if arguments[0] in ("sweep", "resume"):
            places += ("--reports", str(folder / "reports"))
            places += () if alone else ("--address", ray.get_runtime_context().gcs_address)
        command = (str(folder), str(self.log), [*arguments, *places])
        self.process = _FORKS.Process(target=run_command_line, args=command)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self) -> int | None:
        """Its exit code; the number of a signal that killed it is negative."""
        self.process.join(LIMIT_S)
        return self.process.exitcode

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition while it runs."""
        return until(lambda: self._still(condition), "what the test waits for")

    def _still(self, condition: Callable[[], Any]) -> Any:
        alive = self.alive
        found = condition()
        assert found or alive, self.text()
        return found

    def end(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.join()


def ended(folder: Path, name: str = "toy") -> set[str]:
    """Uids whose record is on disk."""
    return {path.parent.name for path in (folder / "sweeps" / name / "trials").glob("*/record.json")}


def at_gate(folder: Path) -> dict[str, int]:
    """Uids of the trials that wait at the gate, and the processes they run in."""
    return {path.stem: int(path.read_text() or 0) for path in (folder / "gate").glob("*.waiting")}


def resumed_at(folder: Path, uid: str) -> list[int]:
    """Steps from which attempts of a trial went on."""
    path = folder / "gate" / f"{uid}.resumed"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def close_gate(folder: Path, after: int = 1) -> None:
    """Have every trial wait when it has reported so many rungs."""
    (folder / "gate").mkdir(exist_ok=True)
    (folder / "gate" / "closed").write_text(str(after))


def open_gate(folder: Path) -> None:
    """Let the trials go on."""
    (folder / "gate" / "closed").unlink()


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while a sweep runs in this one; what goes wrong in it is raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


def gated(folder: str) -> Callable[..., None]:
    """The trainable of the product, with a gate after the first rung; it is sent to the workers by value."""

    def run(config: dict[str, Any], context: Any) -> None:
        from vsae_search.search import trial
        from vsae_search.search.trainable import run_trial
        from vsae_search.training import loop

        gate, uid = Path(folder) / "gate", config["uid"]
        report, skip = trial.TrialRun._report_rung, loop.fast_forward

        def wait(self: Any) -> None:
            report(self)
            waiting, closed = gate / f"{uid}.waiting", gate / "closed"
            if not closed.exists() or len(self.rungs) < int(closed.read_text()):
                return
            part = gate / f".{uid}"
            part.write_text(str(os.getpid()))
            part.replace(waiting)
            while closed.exists():
                time.sleep(0.02)
            waiting.unlink(missing_ok=True)

        def fast_forward(stream: Any, steps: int) -> None:
            if gate.is_dir():
                with (gate / f"{uid}.resumed").open("a") as file:
                    file.write(f"{steps}\n")
            skip(stream, steps)

        trial.TrialRun._report_rung, loop.fast_forward = wait, fast_forward
        try:
            run_trial(config, context)
        finally:
            trial.TrialRun._report_rung, loop.fast_forward = report, skip

    return run


class Listener:
    """Remembers what it was told, and acts when it is told something for the first time.

    Args:
        act: Called with (``start`` | ``rung`` | ``end``, uid).
    """

    def __init__(self, act: Callable[[str, str], None] = lambda *_: None) -> None:
        self.told: list[tuple[str, str]] = []
        self.act = act

    def on_sweep_start(self, record: Any) -> None:
        pass

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        self._tell("start", uid)

    def on_rung(self, uid: str, rung: Any) -> None:
        self._tell("rung", uid)

    def on_trial_end(self, trial: Any) -> None:
        self._tell("end", trial.uid)

    def on_sweep_end(self, record: Any) -> None:
        pass

    def _tell(self, what: str, uid: str) -> None:
        first = (what, uid) not in self.told
        self.told.append((what, uid))
        if first:
            self.act(what, uid)


def facts(directory: Path) -> list[tuple[Any, ...]]:
    """What has to be equal in two sweeps of one seed: everything but times and attempts."""
    return [
        (t.uid, t.params, t.seed, t.state, t.metrics, [(r.step, r.metrics) for r in t.rungs])
        for t in load_sweep(directory)[1]
    ]


def optuna_states(directory: Path) -> Counter[tuple[str, str]]:
    """(uid, state) of every trial in the database of the studies, read without Optuna."""
    query = """SELECT json_extract(a.value_json, '$'), t.state FROM trials t
               JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'uid'"""
    with closing(sqlite3.connect(directory / "optuna.db")) as connection:
        return Counter(connection.execute(query).fetchall())


def mlflow_runs(database: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs of the trials by uid, read without MLflow: status, and how often each (metric, step) was written."""
    with closing(sqlite3.connect(database)) as connection:
        tags = connection.execute("SELECT value, run_uuid FROM tags WHERE key = 'vsae.trial_uid'").fetchall()
        found: dict[str, list[dict[str, Any]]] = {}
        for uid, run in tags:
            stage, status = connection.execute(
                "SELECT lifecycle_stage, status FROM runs WHERE run_uuid = ?", (run,)
            ).fetchone()
            points = connection.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            if stage == "active":
                found.setdefault(uid, []).append({"status": status, "points": points})
    return found


def check_exactly_once(directory: Path, database: Path | None = None) -> None:
    """Every trial once in the records, in Optuna and in MLflow, with the same numbers."""
    record, trials = load_sweep(directory)
    uids = {trial.uid for trial in trials}
    assert record.status == "completed"
    states = optuna_states(directory)
    assert {uid for uid, state in states if state == "COMPLETE"} == uids
    assert [key for key, count in states.items() if key[1] == "COMPLETE" and count > 1] == []
    assert [key for key in states if key[1] in ("RUNNING", "WAITING")] == []
    runs = mlflow_runs(database or directory / "mlflow.db")
    assert {uid: len(found) for uid, found in runs.items()} == dict.fromkeys(uids, 1)
    for trial in trials:
        check_run(trial, runs[trial.uid][0])


def check_run(trial: Any, run: dict[str, Any]) -> None:
    """One MLflow run has what the record of its trial has, each value once."""
    assert run["status"] == ("FINISHED" if trial.state in ("completed", "stopped") else "FAILED")
    written = Counter((key, step) for key, step, _ in run["points"])
    assert [key for key, count in written.items() if count > 1] == []
    curve = sorted((step, value) for key, step, value in run["points"] if key == "rung/l0")
    assert curve == [(rung.tokens, rung.metrics["l0"]) for rung in trial.rungs]
    if trial.state == "completed":
        final = {key: value for key, _, value in run["points"]}
        assert {key: final[key] for key in trial.metrics} == trial.metrics
