"""Whole sweeps on one Ray."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from search_helpers import ARCHITECTURES, tiny_space

from vsae_search import saes
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.search import load_sweep, run_sweep
from vsae_search.search import sweep as sweep_module
from vsae_search.search.resources.cluster import connected
from vsae_search.search.store.truth import read_truth
from vsae_search.space import ResourcesSpec

run_trial = sweep_module.run_trial


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with connected(ResourcesSpec()):
        yield
    assert not ray.is_initialized()


def test_no_other_user_reaches_the_folder_of_ray():
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    closed = session.parent.parent
    assert session.parent.name == "ray"
    assert (closed.stat().st_uid, stat.S_IMODE(closed.stat().st_mode)) == (os.getuid(), 0o700)


class Listener:
    """Remembers what it was told, and acts once."""

    def __init__(self, act=None) -> None:
        self.events: list[tuple[str, ...]] = []
        self.act = act

    def on_sweep_start(self, record) -> None:
        self.events.append(("sweep", record.status))

    def on_trial_start(self, uid, architecture, params) -> None:
        assert uid.startswith(architecture)
        assert params["d_sae"] == 16
        self.events.append(("start", uid))

    def on_rung(self, uid, rung) -> None:
        self.events.append(("rung", uid, str(rung.index)))

    def on_trial_end(self, trial) -> None:
        self.events.append((trial.state, trial.uid))
        if self.act is not None and len([event for event in self.events if event[0] == "completed"]) == 2:
            act, self.act = self.act, None
            act()

    def on_sweep_end(self, record) -> None:
        self.events.append(("end", record.status))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep that ran through: its directory, its record and what its listener heard."""
    root, listener = tmp_path_factory.mktemp("sweeps"), Listener()
    record = run_sweep(tiny_space(), root=root, listeners=[listener])
    return root / "tiny", record, listener


def facts(directory):
    """What has to be equal in two sweeps of one seed: everything but times."""
    _, trials = load_sweep(directory)
    return [(t.uid, t.params, t.seed, t.state, t.metrics, [r.metrics for r in t.rungs]) for t in trials]


def test_every_trial_is_trained_evaluated_and_kept(finished):
    directory, record, _ = finished
    stored, trials = load_sweep(directory)
    assert stored == record
    assert record.status == "completed"
    assert [trial.uid for trial in trials] == ["relu-0000", "relu-0001", "topk-0000", "topk-0001"]
    assert {trial.state for trial in trials} == {"completed"}
    for trial in trials:
        sae = saes.load(directory / "trials" / trial.uid)
        assert sae.config.d_sae == 16
        assert sae.config.lr == trial.params["lr"]
        assert len(trial.rungs) == 2
        assert trial.rungs[-1].metrics == trial.metrics
        assert trial.wall_s > trial.train_s + trial.evaluate_s
        assert not (directory / "trials" / trial.uid / "checkpoint").exists()
    assert trials[2].metrics["l0"] <= trials[2].params["k"]


def test_the_sweep_says_what_it_ran_with(finished):
    directory, record, _ = finished
    assert {name: (plan.trials, plan.startup) for name, plan in record.architectures.items()} == {
        "topk": (2, 2),
        "relu": (2, 2),
    }
    assert record.reference.l0 == 16.0
    assert record.reference.delta_ce > 0
    assert record.resources["max_concurrent"] == 1
    assert os.path.isdir(record.ray_logs)
    assert record.bank["num_rows"] == 2048
    assert record.space == tiny_space().model_dump(mode="json")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory.parent / ".bank").is_dir()


def test_the_truth_of_a_toy_subject_is_kept_for_the_report(finished):
    directory, record, _ = finished
    truth = read_truth(directory)
    cosines = abs(truth.directions_MD @ truth.directions_MD.T)
    assert cosines.shape == (12, 12)
    assert cosines.diagonal() == pytest.approx(1)
    assert (cosines - np.eye(12)).max() == pytest.approx(record.subject["largest_abs_cosine"], abs=1e-5)
    assert truth.W_DM is None


def test_listeners_hear_everything_in_order(finished):
    _, _, listener = finished
    assert listener.events[0] == ("sweep", "running")
    assert listener.events[-1] == ("end", "completed")
    expected = []
    for uid in ("topk-0000", "relu-0000", "topk-0001", "relu-0001"):
        expected += [("start", uid), ("rung", uid, "0"), ("rung", uid, "1"), ("completed", uid)]
    assert listener.events[1:-1] == expected


def test_an_interrupted_sweep_ends_as_if_it_had_not_been(finished, tmp_path):
    space, handler = tiny_space(), signal.getsignal(signal.SIGINT)
    listener = Listener(act=lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(space, root=tmp_path, listeners=[listener])
    record, trials = load_sweep(tmp_path / "tiny")
    assert record.status == "interrupted"
    assert listener.events[-1] == ("end", "interrupted")
    assert 2 <= len(trials) < 4
    assert signal.getsignal(signal.SIGINT) == handler
    assert (tmp_path / "tiny" / "driver.lock").read_text() == ""

    again = Listener()
    record = run_sweep(space, root=tmp_path, listeners=[again])
    assert (record.status, record.sessions) == ("completed", 2)
    told = [event[1] for event in again.events if event[0] == "completed"]
    assert len(told) == len(set(told)) == 4  # those of the first session are told again
    assert sorted(told[: len(trials)]) == sorted(trial.uid for trial in trials)
    assert facts(tmp_path / "tiny") == facts(finished[0])


def test_a_completed_sweep_has_nothing_left_to_do(finished, monkeypatch):
    def started(*_, **__):
        raise AssertionError("something was started")

    monkeypatch.setattr(sweep_module, "connected", started)
    monkeypatch.setattr(sweep_module, "build_subject", started)
    directory, record, _ = finished
    before = facts(directory)
    listener = Listener()
    again = run_sweep(tiny_space(), root=directory.parent, listeners=[listener])
    assert again == record == load_sweep(directory)[0]
    ended = [("completed", uid) for uid in ("relu-0000", "relu-0001", "topk-0000", "topk-0001")]
    assert listener.events == [("sweep", "completed"), *ended, ("end", "completed")]
    assert facts(directory) == before

    reworded = run_sweep(tiny_space(description="other words"), root=directory.parent)
    assert reworded == load_sweep(directory)[0]
    assert (reworded.description, reworded.space["description"]) == ("other words", "other words")
    assert reworded.digest == record.digest


def test_a_larger_budget_adds_trials_and_a_smaller_one_takes_none_away(finished, tmp_path):
    def spend(trials):
        listener = Listener()
        search = {"trials": trials, "sampler": "qmc", "max_retries": 1}
        record = run_sweep(tiny_space(search=search), root=tmp_path, listeners=[listener])
        return record, [event[1] for event in listener.events if event[0] == "start"]

    assert spend(2)[1] == ["topk-0000", "relu-0000"]
    record, begun = spend(4)
    assert begun == ["topk-0001", "relu-0001"]
    assert (record.sessions, record.architectures["topk"].trials) == (2, 2)
    assert facts(tmp_path / "tiny") == facts(finished[0])
    record, begun = spend(2)
    assert (begun, record.status, record.sessions, record.architectures["topk"].trials) == ([], "completed", 2, 1)
    assert facts(tmp_path / "tiny") == facts(finished[0])


_SIGTERM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from search_helpers import tiny_space
from vsae_search.search import run_sweep

class Listener:
    on_sweep_start = on_rung = on_sweep_end = lambda *_: None
    def on_trial_start(self, uid, *_):
        print("start", uid, flush=True)
    def on_trial_end(self, trial):
        print("end", trial.uid, flush=True)

run_sweep(tiny_space(), root=Path(sys.argv[1]), listeners=[Listener()])
"""


def test_a_sweep_that_is_told_to_end_saves_its_state_and_goes_on(finished, tmp_path):
    """SIGTERM in the middle of a sweep: no noise, exit code 143, and its Ray was closed to others."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"} | {"HOME": str(home)}
    command = [sys.executable, "-c", _SIGTERM, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        try:
            assert driver.stdout.readline() == "start topk-0000\n"
            assert driver.stdout.readline() == "end topk-0000\n"
            driver.terminate()
            _, errors = driver.communicate(timeout=120)
        finally:
            driver.kill()
    assert (driver.returncode, errors) == (143, "")
    record, trials = load_sweep(tmp_path / "tiny")
    assert record.status == "interrupted"
    assert 1 <= len(trials) < 4
    assert record.ended_at
    token = home / ".ray" / "auth_token"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (token, token.parent)] == [0o600, 0o700]

    record = run_sweep(tiny_space(), root=tmp_path)
    assert (record.status, record.sessions) == ("completed", 2)
    assert facts(tmp_path / "tiny") == facts(finished[0])


def test_a_changed_search_space_is_refused_and_changes_nothing(finished):
    directory, _, _ = finished
    before = {path: path.read_bytes() for path in directory.glob("*.*") if path.suffix in (".json", ".yaml")}
    with pytest.raises(UserInputError, match="seed: was 1, is 2"):
        run_sweep(tiny_space(seed=2), root=directory.parent)
    assert {path: path.read_bytes() for path in before} == before


def test_more_than_the_cluster_has_is_refused(tmp_path):
    space = tiny_space(resources={"cpus_per_trial": 10_000.0})
    with pytest.raises(EnvironmentNotReady, match="10000 CPU"):
        run_sweep(space, root=tmp_path)


def test_failures_of_every_kind(tmp_path, monkeypatch, capfd):
    """One trial's worker is killed once, one trial always raises, one diverges; the sweep goes on, quietly."""

    def faulty(config, context):
        died = context.directory / "died"
        if config["uid"] == "topk-0000" and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if config["uid"] == "topk-0001":
            raise RuntimeError("a broken disk")
        run_trial(config, context)

    monkeypatch.setattr(sweep_module, "run_trial", faulty)
    space = tiny_space(
        architectures={**ARCHITECTURES, "relu": {"d_sae": 16, "lr": 1e30}},
        search={"trials": 3, "sampler": "random", "max_retries": 1},
        resources={"max_concurrent": 2},
    )
    listener = Listener()
    record = run_sweep(space, root=tmp_path, listeners=[listener])
    trials = {trial.uid: trial for trial in load_sweep(tmp_path / "tiny")[1]}
    assert record.status == "completed"
    assert {uid: (trial.state, trial.attempt) for uid, trial in trials.items()} == {
        "topk-0000": ("completed", 1),
        "topk-0001": ("failed", 1),
        "relu-0000": ("diverged", 0),
    }
    assert "a broken disk" in trials["topk-0001"].error
    ends = [event for event in listener.events if event[0] in ("completed", "failed", "diverged")]
    assert sorted(ends) == [("completed", "topk-0000"), ("diverged", "relu-0000"), ("failed", "topk-0001")]
    assert listener.events.count(("start", "topk-0000")) == 2
    assert capfd.readouterr() == ("", "")
