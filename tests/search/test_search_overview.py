"""What ``status`` and ``stop`` know of a sweep, and when an architecture is given up: from files alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time

import psutil
import pytest
from search_helpers import tiny_space

from vsae_search.errors import Terminated, UserInputError
from vsae_search.search import SweepRecord, TrialRecord
from vsae_search.search.records import SWEEP_FILE, ArchitecturePlan, RungRecord, trial_directory, write_record
from vsae_search.search.signals import Interrupts, SweepStopped, terminable
from vsae_search.search.stopping.giving_up import GivingUp
from vsae_search.search.store.live import RUNNING_FILE, LiveFile, read_running
from vsae_search.search.store.lock import LOCK_FILE, driver_lock, driver_of
from vsae_search.search.store.overview import overview
from vsae_search.search.store.requests import STOP_FILE, request_stop, stop_requested, stop_requests


def trial(uid: str, state: str = "completed", **changes) -> TrialRecord:
    name, number = uid.rsplit("-", 1)
    fields = {"metrics": {"l0": 2.0, "delta_ce": 0.5}, "wall_s": 6.0, "ended_at": f"2026-01-01T00:00:{int(number):02}"}
    return TrialRecord(
        **{**fields, **changes}, uid=uid, architecture=name, number=int(number), params={}, seed=0, state=state
    )


def write(directory, status="running", trials=(), **plans) -> None:
    space = tiny_space()
    plans = plans or {"topk": ArchitecturePlan(trials=2, startup=2), "relu": ArchitecturePlan(trials=4, startup=2)}
    record = SweepRecord(
        name="tiny",
        digest=space.digest(),
        space=space.model_dump(mode="json"),
        seed=1,
        status=status,
        architectures=plans,
        resources={"max_concurrent": 2},
    )
    write_record(directory / SWEEP_FILE, record)
    for one in trials:
        trial_directory(directory, one.uid).mkdir(parents=True)
        write_record(trial_directory(directory, one.uid) / "record.json", one)


def test_there_is_nothing_to_see_without_a_sweep(tmp_path):
    with pytest.raises(UserInputError, match="no sweep"):
        overview(tmp_path)


def test_a_sweep_that_runs(tmp_path):
    failed = trial("relu-0001", "failed", error="Traceback\n  somewhere\nOSError: gone\n", metrics={})
    write(tmp_path, trials=[trial("topk-0000"), failed])
    live = LiveFile(tmp_path)
    live.on_trial_start("topk-0001", "topk", {})
    live.on_rung("topk-0001", RungRecord(index=1, fraction=0.5, step=1, tokens=1, metrics={}))
    with driver_lock(tmp_path):
        told = overview(tmp_path).as_json()
        request_stop(tmp_path, now=False)
        assert overview(tmp_path).state == "stopping"
        assert overview(tmp_path).remaining_s == pytest.approx(1 * 6.0 / 2)
    assert (told["state"], told["done"], told["total"]) == ("running", 2, 6)
    assert told["remaining_s"] == pytest.approx((6 - 2) * 6.0 / 2)
    assert told["driver"] == {"host": socket.gethostname(), "pid": os.getpid(), "alive": True}
    assert told["architectures"]["topk"] == {
        **{"trials": 2, "given_up_after": None, "running": 1},
        **{"completed": 1, "stopped": 0, "diverged": 0, "failed": 0},
    }
    assert [(entry["uid"], entry["rung"]) for entry in told["running"]] == [("topk-0001", 1)]
    assert told["last"]["uid"] == "relu-0001"
    assert [error["error"] for error in told["errors"]] == ["OSError: gone"]
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(("status", "state"), [("running", "died"), ("completed", "completed"), ("failed", "failed")])
def test_a_sweep_without_a_driver(tmp_path, status, state):
    write(tmp_path, status=status)
    (tmp_path / RUNNING_FILE).write_text('{"topk-0001": {"architecture": "topk"}}')
    found = overview(tmp_path)
    assert (found.state, found.running, found.driver, found.remaining_s) == (state, {}, None, None)


def test_what_was_cancelled_is_not_waited_for(tmp_path):
    lost = [trial(f"relu-{number:04d}", "diverged") for number in range(5)]
    plans = {
        "relu": ArchitecturePlan(trials=50, startup=2, given_up_after=5),
        "topk": ArchitecturePlan(trials=3, startup=2),
    }
    write(tmp_path, trials=lost, **plans)
    assert overview(tmp_path).total == 5 + 3


@pytest.mark.parametrize("text", ["", "[]", '{"topk-0000": 3}', "{"])
def test_a_file_of_running_trials_that_makes_no_sense_is_empty(tmp_path, text):
    (tmp_path / RUNNING_FILE).write_text(text)
    assert read_running(tmp_path) == {}


def test_the_file_of_running_trials_follows_the_sweep(tmp_path):
    live = LiveFile(tmp_path)
    for uid in ("topk-0000", "relu-0000"):
        live.on_trial_start(uid, uid[:4], {})
    assert set(read_running(tmp_path)) == {"topk-0000", "relu-0000"}
    live.on_trial_end(trial("topk-0000"))
    assert set(read_running(tmp_path)) == {"relu-0000"}
    live.on_sweep_end(SweepRecord(name="tiny", digest="0", seed=0, status="interrupted"))
    assert read_running(tmp_path) == {}


def test_a_sweep_that_is_confirmed(tmp_path):
    write(tmp_path, status="completed", trials=[trial("topk-0000")])
    with driver_lock(tmp_path, "confirm"):
        assert overview(tmp_path).state == "confirming"
        assert overview(tmp_path).remaining_s is None
        request_stop(tmp_path, now=False)
        assert overview(tmp_path).state == "stopping"
    assert overview(tmp_path).state == "completed"


# -- who runs it -------------------------------------------------------------------------------------------------------


def name_holder(directory, **changes) -> None:
    me = psutil.Process()
    holder = {"host": socket.gethostname(), "pid": me.pid, "created": me.create_time()}
    (directory / LOCK_FILE).write_text(json.dumps(holder | changes))


def test_no_driver(tmp_path):
    assert driver_of(tmp_path) is None
    with driver_lock(tmp_path):
        assert driver_of(tmp_path).alive
    assert driver_of(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "age_s", "alive"),
    [
        ({}, 0.0, True),
        ({"created": 1.0}, 0.0, False),  # the number was used again
        ({"pid": 2**22 + 1}, 0.0, False),
        ({"host": "another-machine"}, 5.0, True),
        ({"host": "another-machine"}, 500.0, False),
    ],
    ids=["here", "another process", "gone", "elsewhere, heard of", "elsewhere, silent"],
)
def test_whether_a_driver_is_alive(tmp_path, changes, age_s, alive):
    name_holder(tmp_path, **changes)
    then = time.time() - age_s
    os.utime(tmp_path / LOCK_FILE, (then, then))
    driver = driver_of(tmp_path)
    assert driver.alive is alive
    assert driver.here is ("host" not in changes)
    assert driver.heard_s == pytest.approx(age_s, abs=3.0)


# -- requests to stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked"), [('{"now": true}', True), ('{"now": false}', False), ("{", None), (None, None)]
)
def test_a_request_is_read(tmp_path, text, asked):
    if text is not None:
        (tmp_path / STOP_FILE).write_text(text)
    assert stop_requested(tmp_path) is asked


def test_a_request_reaches_the_loop_and_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr("vsae_search.search.store.requests.POLL_S", 0.01)
    (tmp_path / LOCK_FILE).touch()
    request_stop(tmp_path, now=True)  # left over from an earlier session
    interrupts = Interrupts()
    with stop_requests(tmp_path, interrupts), interrupts.looping():
        assert not interrupts.draining
        interrupts.check()
        request_stop(tmp_path, now=False)
        while not interrupts.draining:
            time.sleep(0.01)
        interrupts.check()
        request_stop(tmp_path, now=True)
        while not interrupts.now:
            time.sleep(0.01)
        with pytest.raises(SweepStopped):
            interrupts.check()
    assert not (tmp_path / STOP_FILE).exists()


def test_a_request_before_the_first_trial_ends_the_sweep(tmp_path):
    def run() -> None:
        with terminable() as interrupts:
            interrupts.ask(now=False)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run()


def test_sigterm_between_trials_is_told_from_a_request():
    def run() -> None:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Terminated):
        run()


def test_signals_climb_from_draining_to_stopping():
    with terminable() as interrupts, interrupts.looping():
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.draining, interrupts.now) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.now
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_signals_keep_their_handlers():
    found = []

    def run() -> None:
        with terminable() as interrupts:
            found.append(interrupts.handled)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_an_error_that_tune_would_pass_over_leaves_the_loop():
    interrupts = Interrupts()
    interrupts.fail(ZeroDivisionError("first"))
    interrupts.fail(ZeroDivisionError("second"))
    with pytest.raises(ZeroDivisionError, match="first"):
        interrupts.check()


# -- giving up ---------------------------------------------------------------------------------------------------------


class FakeStudies:
    def __init__(self) -> None:
        self.left: list[str] = []

    def give_up(self, name: str) -> None:
        self.left.append(name)

    def take_up(self, name: str) -> None:
        self.left.remove(name)


@pytest.mark.parametrize(
    ("states", "limit", "given_up_after"),
    [
        (["diverged"] * 4, 5, None),
        (["diverged"] * 5, 5, 5),
        (["diverged", "failed"] * 3, 5, 6),
        (["completed", *["diverged"] * 9], 5, None),
        (["stopped", *["failed"] * 9], 5, None),
        (["diverged"] * 9, None, None),
        (["diverged"], 1, 1),
    ],
)
def test_when_an_architecture_is_given_up(states, limit, given_up_after):
    studies = FakeStudies()
    giving_up = GivingUp(limit, studies)
    for number, state in enumerate(states):
        for _ in range(2):  # told again, it counts once
            giving_up.on_trial_end(trial(f"relu-{number:04d}", state))
        giving_up.on_trial_end(trial(f"topk-{number:04d}"))
    plans = {name: ArchitecturePlan(trials=50, startup=5) for name in ("relu", "topk")}
    marked = giving_up.marked(plans)
    assert (marked["relu"].given_up_after, marked["topk"].given_up_after) == (given_up_after, None)
    assert set(studies.left) == ({"relu"} if given_up_after else set())


def test_a_late_success_takes_an_architecture_up_again():
    studies = FakeStudies()
    giving_up = GivingUp(2, studies)
    for uid, state in (("relu-0000", "diverged"), ("relu-0001", "diverged")):
        giving_up.on_trial_end(trial(uid, state))
    assert studies.left == ["relu"]
    giving_up.on_trial_end(trial("relu-0002"))  # it was running
    assert (studies.left, giving_up.given_up) == ([], {})
