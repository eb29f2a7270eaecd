"""The process that runs a sweep is killed, interrupted, terminated, asked to stop, or started twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from fault_helpers import (
    TRIALS,
    Driver,
    at_gate,
    check_exactly_once,
    close_gate,
    ended,
    facts,
    open_gate,
    optuna_states,
    resumed_at,
    toy,
    until,
    write_toy,
)

from vsae_search.errors import EnvironmentNotReady
from vsae_search.search import load_sweep, run_sweep
from vsae_search.search.store.lock import driver_of
from vsae_search.search.store.overview import overview

RUNG_STEP = 8  # of 16 steps
pytestmark = pytest.mark.timeout(900)
SEED = 20


def sweep(folder, *, alone: bool = False) -> Driver:
    return Driver(folder, "sweep", str(write_toy(folder)), alone=alone)


@pytest.fixture
def driver(folder, shared_ray):
    """A sweep in a process of its own, whose first two trials wait after their first rung."""
    close_gate(folder)
    driver = sweep(folder)
    try:
        driver.until(lambda: len(at_gate(folder)) == 2)
        yield driver
    finally:
        driver.end()


def running(folder) -> set[str]:
    """Trials that Optuna believes to be running."""
    return {uid for uid, state in optuna_states(folder / "sweeps" / "toy") if state == "RUNNING"}


def status(folder) -> str:
    return load_sweep(folder / "sweeps" / "toy")[0].status


def check_interrupted(folder, driver, waiting) -> None:
    """The state is saved, what ran was not counted, and the way on is told."""
    assert status(folder) == "interrupted"
    assert ended(folder).isdisjoint(waiting)
    assert f"python -m vsae_search resume toy --root {folder / 'sweeps'}" in driver.text()
    assert "Traceback" not in driver.text()
    assert (folder / "sweeps" / "toy" / "driver.lock").read_text() == ""


def check_goes_on(folder, finish, waiting, undisturbed) -> None:
    """The trials that were stopped go on from their rung, and all is as if nothing had happened."""
    open_gate(folder)
    finish()
    assert facts(folder / "sweeps" / "toy") == undisturbed
    check_exactly_once(folder / "sweeps" / "toy")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_driver_killed_at_random_moments(folder, finish, undisturbed):
    """SIGKILL five times, at moments from a seed; ``sweep`` and ``resume`` in turn go on.

    The second driver has a Ray of its own, which dies with it; the others leave workers behind on a cluster.
    """
    rng = random.Random(SEED)
    moments = sorted(rng.sample(range(TRIALS - 1), 4))
    again = [None, *moments]  # the first one is killed while it starts
    for session, count in enumerate(again):
        resumes = session % 2 == 0 and (folder / "sweeps" / "toy" / "sweep.json").exists()
        driver = Driver(folder, "resume", "toy") if resumes else sweep(folder, alone=session == 1)
        try:
            if count is None:
                driver.until(lambda: driver_of(folder / "sweeps" / "toy"))
                time.sleep(rng.uniform(0, 3))
            else:
                driver.until(lambda count=count: len(ended(folder)) > count)
                time.sleep(rng.uniform(0, 0.3))
            assert driver.alive, driver.text()
        finally:
            driver.end()
        assert driver.wait() == -signal.SIGKILL
    assert len(ended(folder)) > moments[-1]
    finish()
    assert facts(folder / "sweeps" / "toy") == undisturbed
    check_exactly_once(folder / "sweeps" / "toy")


def test_interrupted_once_it_drains(folder, driver):
    """Ctrl-C: the trials that run are finished, none is started, exit 130 with the command that goes on."""
    waiting = set(at_gate(folder))
    os.kill(driver.pid, signal.SIGINT)
    driver.until(lambda: "stopping" in driver.text())
    assert driver.alive
    open_gate(folder)
    assert driver.wait() == 130
    assert ended(folder) == waiting
    assert running(folder) == set()
    check_interrupted(folder, driver, set())


def test_interrupted_twice_it_ends_at_once(folder, driver, finish, undisturbed):
    waiting = set(at_gate(folder))
    os.kill(driver.pid, signal.SIGINT)
    driver.until(lambda: "stopping" in driver.text())
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait() == 130
    check_interrupted(folder, driver, waiting)
    check_goes_on(folder, finish, waiting, undisturbed)


def test_terminated_it_saves_and_ends(folder, driver, finish, undisturbed):
    """SIGTERM, as Slurm and Kubernetes send it: exit 143 without waiting for the trials, which would never end."""
    waiting = set(at_gate(folder))
    os.kill(driver.pid, signal.SIGTERM)
    assert driver.wait() == 143
    check_interrupted(folder, driver, waiting)
    check_goes_on(folder, finish, waiting, undisturbed)


def call(folder, *arguments) -> str:
    """Another terminal."""
    other = Driver(folder, *arguments)
    try:
        assert other.wait() == 0, other.text()
        return other.text()
    finally:
        other.end()


def test_stop_and_status_from_another_terminal(folder, driver):
    """While it runs, its state can be read and a second driver is refused; ``stop`` lets running trials finish."""
    waiting = set(at_gate(folder))
    told = json.loads(call(folder, "status", "toy", "--json"))
    assert (told["state"], told["done"], told["total"]) == ("running", 0, TRIALS)
    assert told["driver"] == {"host": os.uname().nodename, "pid": driver.pid, "alive": True}
    assert {entry["uid"] for entry in told["running"]} == waiting
    assert {entry["rung"] for entry in told["running"]} == {0}
    with pytest.raises(EnvironmentNotReady, match=f"process {driver.pid}"):
        run_sweep(toy(), root=folder / "sweeps")

    assert f"process {driver.pid}" in call(folder, "stop", "toy")
    driver.until(lambda: "stopping" in driver.text())
    assert overview(folder / "sweeps" / "toy").state == "stopping"
    open_gate(folder)
    assert driver.wait() == 130
    assert ended(folder) == waiting
    check_interrupted(folder, driver, set())
    assert not (folder / "sweeps" / "toy" / "stop.json").exists()
    text = call(folder, "status", "toy")
    assert "interrupted" in text
    assert "resume toy" in text


def test_stop_now_from_another_terminal(folder, driver, finish, undisturbed):
    waiting = set(at_gate(folder))
    call(folder, "stop", "toy", "--now")
    assert driver.wait() == 130
    check_interrupted(folder, driver, waiting)
    check_goes_on(folder, finish, waiting, undisturbed)
    assert all(RUNG_STEP in resumed_at(folder, uid) or not resumed_at(folder, uid) for uid in waiting)


def test_a_request_to_stop_reaches_a_driver_on_another_machine(folder, driver):
    """Where the driver cannot be signalled, the file in the shared directory is all there is of ``stop --now``."""
    from vsae_search.search.store.requests import request_stop

    request_stop(folder / "sweeps" / "toy", now=True)
    assert driver.wait() == 130
    check_interrupted(folder, driver, set(at_gate(folder)))


def test_status_of_a_killed_driver_says_so(folder, driver):
    driver.end()
    found = until(lambda: (seen := overview(folder / "sweeps" / "toy")).state == "died" and seen)
    assert found.running == {}
    text = call(folder, "status")
    assert "died" in text
