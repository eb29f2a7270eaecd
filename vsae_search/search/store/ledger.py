"""The driver's book of a sweep: writes each trial's record once and tells the listeners."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsae_search.search.records import (
    TRIAL_FILE,
    TRIALS_FOLDER,
    TrialRecord,
    read_trials,
    trial_directory,
    write_record,
    write_text,
)
from vsae_search.search.trial import clear_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.search.assignment import Assignment
    from vsae_search.search.listener import SweepListener
    from vsae_search.search.records import SweepRecord


AUDIT_FILE = "audit.json"
"""Beside a trial that early stopping would have ended and that is finished nevertheless: at which rung that was."""


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
        self._audits: dict[str, int] = _read_audits(directory)

    def open(self, sweep: SweepRecord) -> None:
        """Tell of the sweep and of the trials that earlier sessions ended."""
        for listener in self.listeners:
            listener.on_sweep_start(sweep)
        for record in self.ended.values():
            self._tidy(record)  # the driver may have died before it came to that
            self._tell_end(record)

    def retell(self, listener: SweepListener) -> None:
        """Tell one listener alone of the trials that earlier sessions ended."""
        for record in self.ended.values():
            listener.on_trial_end(record)

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

    def audit(self, uid: str, rung: int) -> None:
        """A running trial ought to be stopped at this rung and is finished nevertheless; its record will say so."""
        if uid in self._audits:  # the first rung that would have ended it counts
            return
        self._audits[uid] = rung
        path = trial_directory(self.directory, uid) / AUDIT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"rung": rung}) + "\n", durable=False)

    def end(self, record: TrialRecord) -> TrialRecord:
        """Write the record of a trial that ended for good.

        Returns:
            The record as written: its times are those that the driver saw, reporting included.
        """
        running = self._running.pop(record.uid, None)
        wall_s = record.wall_s if running is None else time.monotonic() - running.begun
        times = {"wall_s": wall_s, "overhead_s": max(wall_s - record.train_s, 0.0)}
        record = record.model_copy(update=times | {"audited_rung": self._audits.pop(record.uid, None)})
        path = trial_directory(self.directory, record.uid) / TRIAL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, record)
        self.ended[record.uid] = record
        self._tidy(record)
        return record

    def announce(self, record: TrialRecord) -> None:
        """Tell that a trial ended."""
        self._tell_end(record)

    def _tidy(self, record: TrialRecord) -> None:
        """Remove what only an unfinished trial needs; a trial that was stopped cannot do it itself."""
        folder = trial_directory(self.directory, record.uid)
        if record.state == "stopped":
            clear_attempt(folder)
        (folder / AUDIT_FILE).unlink(missing_ok=True)

    def _tell_end(self, record: TrialRecord) -> None:
        for listener in self.listeners:
            listener.on_trial_end(record)


def _read_audits(directory: Path) -> dict[str, int]:
    """The unfinished audits of earlier sessions; one that cannot be read is forgotten."""
    audits: dict[str, int] = {}
    for file in (directory / TRIALS_FOLDER).glob(f"*/{AUDIT_FILE}"):
        try:
            audits[file.parent.name] = int(json.loads(file.read_bytes())["rung"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return audits
