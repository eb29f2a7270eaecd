"""The driver's book of a sweep: writes each trial's record once and tells the listeners."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsae_search.search.records import TRIAL_FILE, TrialRecord, read_trials, trial_directory, write_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.search.assignment import Assignment
    from vsae_search.search.listener import SweepListener
    from vsae_search.search.records import SweepRecord


@dataclass
class _Running:
    """A trial that has a worker: when it got it, and how many of its rungs the listeners know."""

    begun: float
    rungs: int = 0


class Ledger:
    """Every trial that has ended, and what is known of those that run.

    Args:
        directory: The sweep directory.
        listeners: Who is told; in order.
    """

    def __init__(self, directory: Path, listeners: Sequence[SweepListener] = ()) -> None:
        self.directory, self.listeners = directory, list(listeners)
        self.ended: dict[str, TrialRecord] = read_trials(directory)
        self._running: dict[str, _Running] = {}

    def open(self, sweep: SweepRecord) -> None:
        """Tell of the sweep and of the trials that earlier sessions ended."""
        for listener in self.listeners:
            listener.on_sweep_start(sweep)
        for record in self.ended.values():
            self._tell_end(record)

    def close(self, sweep: SweepRecord) -> None:
        """Tell that the sweep is over, or interrupted."""
        for listener in self.listeners:
            listener.on_sweep_end(sweep)

    def start(self, assignment: Assignment) -> None:
        """A trial has a worker."""
        self._running[assignment.uid] = _Running(time.monotonic())
        for listener in self.listeners:
            listener.on_trial_start(assignment.uid, assignment.architecture, dict(assignment.params))

    def reached(self, record: TrialRecord) -> None:
        """A trial reported; tell of the rungs that are new."""
        running = self._running.setdefault(record.uid, _Running(time.monotonic()))
        for rung in record.rungs[running.rungs :]:
            for listener in self.listeners:
                listener.on_rung(record.uid, rung)
        running.rungs = len(record.rungs)

    def end(self, record: TrialRecord) -> TrialRecord:
        """Write the record of a trial that ended for good.

        Returns:
            The record as written: its times are those that the driver saw, reporting included.
        """
        running = self._running.pop(record.uid, None)
        wall_s = record.wall_s if running is None else time.monotonic() - running.begun
        record = record.model_copy(update={"wall_s": wall_s, "overhead_s": max(wall_s - record.train_s, 0.0)})
        path = trial_directory(self.directory, record.uid) / TRIAL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, record)
        self.ended[record.uid] = record
        return record

    def announce(self, record: TrialRecord) -> None:
        """Tell that a trial ended."""
        self._tell_end(record)

    def _tell_end(self, record: TrialRecord) -> None:
        for listener in self.listeners:
            listener.on_trial_end(record)
