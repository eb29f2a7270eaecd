from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from vsae_search.tracking.flusher import ConnectFailed, Flusher, describe, is_refusal
from vsae_search.tracking.spool import Event, Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Refusal(Exception):
    error_code = "INVALID_PARAMETER_VALUE"


class Target:
    """Takes events unless it is down, refuses the bad ones, and can be held."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.down = False
        self.bad: set[str] = set()
        self.attempts = 0
        self.disconnected = 0
        self.gate = threading.Event()
        self.gate.set()

    def deliver(self, events: Sequence[Event]) -> None:
        self.attempts += 1
        assert self.gate.wait(10)
        if self.down:
            raise ConnectionError("no answer from http://me:canary@host")
        names = [event.uid for event in events]
        if self.bad & set(names):
            raise Refusal("not allowed")
        self.taken += names

    def disconnect(self) -> None:
        self.disconnected += 1


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def put(spool: Spool, *names: str) -> None:
    for name in names:
        spool.append(Event("rung", name))


def test_events_are_delivered_in_the_background(spool: Spool, wait_for: Callable[[Callable[[], bool]], None]) -> None:
    target = Target()
    flusher = Flusher(spool, target, 0.01)
    flusher.start()
    put(spool, "a", "b")
    wait_for(lambda: spool.pending == 0)
    put(spool, "c")
    assert flusher.close(5)
    assert target.taken == ["a", "b", "c"]
    assert spool.delivered == 3
    assert target.disconnected == 1


def test_an_outage_is_said_once_and_made_up_for(
    spool: Spool, wait_for: Callable[[Callable[[], bool]], None], warnings_of: Callable[[], list[str]]
) -> None:
    target = Target()
    target.down = True
    flusher = Flusher(spool, target, 0.005)
    flusher.start()
    put(spool, "a", "b")
    wait_for(lambda: target.attempts >= 3)
    assert len(warnings_of()) == 1
    assert "canary" not in warnings_of()[0]
    assert flusher.last_error == "ConnectionError: no answer from http://me:***@host"
    assert spool.pending == 2
    target.down = False
    wait_for(lambda: spool.pending == 0)
    wait_for(lambda: flusher.last_error is None)
    assert flusher.close(5)
    assert target.taken == ["a", "b"]
    assert [line for line in warnings_of() if "back" in line]


def test_pauses_grow_while_the_store_is_down(spool: Spool) -> None:
    target = Target()
    target.down = True
    flusher = Flusher(spool, target, 0.02)
    flusher.start()
    put(spool, "a")
    time.sleep(0.5)  # 0.02 + 0.04 + 0.08 + 0.16 = 0.3 s: about four attempts, not twenty-five
    assert target.attempts <= 6
    assert flusher.close(5)


def test_one_refused_event_does_not_hold_up_the_others(spool: Spool, warnings_of: Callable[[], list[str]]) -> None:
    target = Target()
    target.bad = {"bad"}
    put(spool, "a", "bad", "b")
    flusher = Flusher(spool, target, 0.01)
    flusher.start()
    assert flusher.close(5)
    assert target.taken == ["a", "b"]
    assert flusher.rejected == 1
    assert spool.pending == 0
    assert len([line for line in warnings_of() if "refused rung bad" in line]) == 1


def test_closing_during_an_outage_is_quick_and_keeps_the_events(spool: Spool, tmp_path: Path) -> None:
    target = Target()
    target.down = True
    flusher = Flusher(spool, target, 30.0)
    flusher.start()
    put(spool, "a")
    start = time.monotonic()
    assert flusher.close(5)
    assert time.monotonic() - start < 2
    assert target.attempts == 1
    spool.close()
    again = Spool(tmp_path)
    assert again.pending == 1
    again.close()


def test_closing_does_not_wait_for_a_request_that_hangs(spool: Spool) -> None:
    target = Target()
    target.gate.clear()
    flusher = Flusher(spool, target, 0.01)
    flusher.start()
    put(spool, "a")
    start = time.monotonic()
    assert not flusher.close(0.2)
    assert time.monotonic() - start < 2
    target.gate.set()
    assert flusher.close(5)
    assert target.taken == ["a"]


def test_what_counts_as_a_refusal() -> None:
    assert is_refusal(Refusal())
    assert not is_refusal(ConnectFailed("x"))
    assert not is_refusal(ConnectionError("x"))


def test_errors_are_described_in_one_short_line() -> None:
    text = describe(ValueError("a\n  b" + "c" * 1000))
    assert text.startswith("ValueError: a bccc")
    assert len(text) == 500
