"""What a sweep is doing, from its directory alone: while it runs, from any machine, and after it has ended."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsae_search.search.records import load_sweep
from vsae_search.search.store.live import read_running
from vsae_search.search.store.lock import Driver, driver_of
from vsae_search.search.store.requests import stop_requested

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.search.records import SweepRecord, TrialRecord

STATES = ("completed", "stopped", "diverged", "failed")
_ERRORS = 3


@dataclass(frozen=True)
class Overview:
    """A sweep at one moment.

    Attributes:
        record: The sweep as its driver wrote it last.
        state: ``running``, ``confirming`` (its best are trained again), ``stopping`` (asked to), ``died`` (its driver
            is gone without a word), or how it ended: ``completed``, ``interrupted``, ``failed``.
        driver: Who runs it; None when nobody holds it.
        running: Uid to architecture, start and rung of the trials that run.
        trials: The trials that have ended, by the time of their end.
    """

    record: SweepRecord
    state: str
    driver: Driver | None
    running: dict[str, dict[str, Any]]
    trials: Sequence[TrialRecord]

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Architecture to its number of trials by state, ``running`` among them."""
        found: dict[str, Counter[str]] = {name: Counter() for name in self.record.architectures}
        for trial in self.trials:
            found.setdefault(trial.architecture, Counter())[trial.state] += 1
        for entry in self.running.values():
            found.setdefault(str(entry.get("architecture")), Counter())["running"] += 1
        return found

    @property
    def total(self) -> int:
        """Trials that the sweep will have: its budget, less what was cancelled of architectures that were given up."""
        counts = self.counts
        return sum(
            plan.trials if plan.given_up_after is None else _ended(counts[name])
            for name, plan in self.record.architectures.items()
        )

    @property
    def errors(self) -> list[TrialRecord]:
        """The last trials that diverged or failed, newest first."""
        return [trial for trial in reversed(self.trials) if trial.state in ("diverged", "failed")][:_ERRORS]

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the mean pace of the trials so far; None when nothing runs or nothing has ended."""
        if self.state not in ("running", "stopping") or not self.trials:
            return None
        mean_s = sum(trial.wall_s for trial in self.trials) / len(self.trials)
        left = len(self.running) if self.state == "stopping" else max(self.total - len(self.trials), 0)
        return left * mean_s / max(1, int(self.record.resources.get("max_concurrent", 1)))

    def as_json(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        last = self.trials[-1] if self.trials else None
        driver = self.driver
        return {
            "name": self.record.name,
            "state": self.state,
            "driver": None if driver is None else {"host": driver.host, "pid": driver.pid, "alive": driver.alive},
            "started_at": self.record.started_at,
            "ended_at": self.record.ended_at,
            "sessions": self.record.sessions,
            "done": len(self.trials),
            "total": self.total,
            "remaining_s": self.remaining_s,
            "architectures": {
                name: {
                    "trials": self.record.architectures[name].trials if name in self.record.architectures else None,
                    "given_up_after": plan.given_up_after if (plan := self.record.architectures.get(name)) else None,
                    **{state: counts[state] for state in ("running", *STATES)},
                }
                for name, counts in self.counts.items()
            },
            "running": [{"uid": uid, **entry} for uid, entry in self.running.items()],
            "last": None if last is None else _brief(last),
            "errors": [_brief(trial) for trial in self.errors],
        }


def overview(directory: Path) -> Overview:
    """Look at a sweep.

    Args:
        directory: The sweep directory.

    Raises:
        UserInputError: There is no sweep in that directory.
        CorruptFile: A record cannot be read.
    """
    record, trials = load_sweep(directory)
    driver = driver_of(directory)
    alive = driver is not None and driver.alive
    state: str = record.status
    if driver is not None and alive:
        doing = "confirming" if driver.task == "confirm" else "running"
        state = doing if stop_requested(directory) is None else "stopping"
    elif state == "running":
        state = "died"
    ended = {trial.uid for trial in trials}
    running = {uid: entry for uid, entry in read_running(directory).items() if uid not in ended} if alive else {}
    return Overview(record, state, driver, running, sorted(trials, key=lambda trial: trial.ended_at))


def _ended(counts: Counter[str]) -> int:
    return sum(counts[state] for state in STATES)


def _brief(trial: TrialRecord) -> dict[str, Any]:
    """What fits into a line."""
    numbers = {key: trial.metrics[key] for key in ("l0", "delta_ce") if math.isfinite(trial.metrics.get(key, math.nan))}
    error = {"error": trial.error.strip().splitlines()[-1][:200]} if trial.error and trial.error.strip() else {}
    return {"uid": trial.uid, "state": trial.state, "ended_at": trial.ended_at, **numbers, **error}
