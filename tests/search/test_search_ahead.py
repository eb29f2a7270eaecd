"""Proposals that are made in the background while trials run."""

from __future__ import annotations

import threading
import time

import pytest
from optuna.trial import TrialState
from search_problem import RANGES, address, empty, outcome, plans  # noqa: F401 - a fixture

from vsae_search.search.propose import proposer as proposer_module
from vsae_search.search.propose.model import Model
from vsae_search.search.propose.studies import Studies

propose = Model.propose


@pytest.fixture
def gate(monkeypatch):
    """Models that finish only when the gate is open, and a list of the threads that they worked in."""

    class Gate(threading.Event):
        threads: list[str] = []  # noqa: RUF012 - one gate per test

    opened = Gate()
    opened.threads = []

    def gated(model):
        opened.threads.append(threading.current_thread().name)
        assert opened.wait(60)
        return propose(model)

    monkeypatch.setattr(Model, "propose", gated)
    yield opened
    opened.set()


def start(folder, empty, *, slots, budget=5, startup=2, sampler="tpe"):  # noqa: F811
    storage = address(empty, folder)
    return Studies(
        "s", 0, plans(budget, startup, ("relu",)), sampler=sampler, max_retries=1, storage=storage, slots=slots
    )


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_results_are_told_and_the_loop_goes_on_while_a_model_is_at_work(tmp_path, empty, gate):  # noqa: F811
    studies = start(tmp_path, empty, slots=2)
    first, second = studies.ask(), studies.ask()
    until(lambda: gate.threads)  # the third trial has no start-up point, so it is prepared while these two run
    assert all(name.startswith("proposals") for name in gate.threads)
    assert studies.ask(patient=False) is None  # not ready: the caller is not kept waiting
    assert studies.tell(first.uid, outcome(first.params))  # and neither is a result
    assert not studies.exhausted()
    assert studies.spent() == {"relu": 2}  # what is being prepared is no trial
    gate.set()
    until(lambda: studies._proposer._ahead.ready(("relu", 2)))
    third = studies.ask(patient=False)
    assert third.uid == "relu-0002"
    assert studies.tell(second.uid, outcome(second.params))
    studies.close()


def test_a_crash_while_a_proposal_waits_neither_loses_nor_doubles_a_trial(tmp_path, empty):  # noqa: F811
    studies = start(tmp_path, empty, slots=2)
    running = [studies.ask() for _ in range(2)]
    until(lambda: studies._proposer._ahead.ready(("relu", 2)))
    studies.close()  # nothing else is told: as after SIGKILL, the proposal is gone

    again = start(tmp_path, empty, slots=2)
    assert again.reconcile({}) == [one.uid for one in running]
    ended = []
    while (one := again.ask()) is not None:
        again.tell(one.uid, outcome(one.params))
        ended.append(one.uid)
    states = [trial.state for trial in again._trials("relu")]
    again.close()
    assert ended == [f"relu-{number:04d}" for number in range(5)]
    assert (states.count(TrialState.FAIL), states.count(TrialState.COMPLETE), len(states)) == (2, 5, 7)


def test_with_one_slot_a_proposal_knows_every_result(tmp_path, empty, gate):  # noqa: F811
    gate.set()
    studies = start(tmp_path, empty, slots=1, budget=4)
    while (one := studies.ask()) is not None:
        studies.tell(one.uid, outcome(one.params))
    studies.close()
    assert gate.threads == ["MainThread"] * 2


def test_a_slot_that_has_waited_long_enough_gets_a_spread_point(tmp_path, empty, gate, monkeypatch):  # noqa: F811
    monkeypatch.setattr(proposer_module, "PATIENCE_S", 0.0)
    studies = start(tmp_path, empty, slots=2)
    for _ in range(2):
        studies.ask()
    third = studies.ask(patient=False)
    sobol = plans(5, 2, ("relu",))["relu"].proposals
    assert third.params == sobol.params(sobol.point(2))
    gate.set()
    studies.close()


def test_a_model_that_fails_is_replaced_by_a_spread_point(tmp_path, empty, monkeypatch, caplog):  # noqa: F811
    def fail(_):
        raise ValueError("the matrix is singular")

    monkeypatch.setattr(Model, "propose", fail)
    sobol = plans(3, 2, ("relu",))["relu"].proposals
    for slots in (1, 2):
        folder = tmp_path / str(slots)
        folder.mkdir()
        studies = start(folder, empty, slots=slots, budget=3)
        asked = []
        while (one := studies.ask()) is not None:
            studies.tell(one.uid, outcome(one.params))
            asked.append(one.params)
        studies.close()
        assert asked == [sobol.params(sobol.point(number)) for number in range(3)]
        assert "the matrix is singular" in caplog.text
        caplog.clear()


def test_as_many_are_prepared_as_cost_no_knowledge(tmp_path, empty):  # noqa: F811
    """Five studies take turns over two slots: the next three trials belong to studies that have nothing running."""
    names = [f"a{number}" for number in range(5)]
    made = {name: plans(4, 0, ("relu",))["relu"] for name in names}
    studies = Studies("s", 0, made, sampler="tpe", max_retries=0, storage=address(empty, tmp_path), slots=2)
    first, second = studies.ask(), studies.ask()
    assert (first.uid, second.uid) == ("a0-0000", "a1-0000")
    assert list(studies._proposer._ahead._made) == [("a2", 0), ("a3", 0)]
    studies.close()
