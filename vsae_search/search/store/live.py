"""What runs at this moment, in a small file that ``status`` reads from another process or machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vsae_search.search.records import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.search.records import RungRecord, SweepRecord, TrialRecord

RUNNING_FILE = "running.json"


class LiveFile:
    """A listener that keeps ``running.json``: uid to architecture, start, and the rung reached.

    Args:
        directory: The sweep directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / RUNNING_FILE
        self._running: dict[str, dict[str, Any]] = {}

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing runs yet."""
        del record
        self._running.clear()
        self._write()

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Add the trial."""
        del params
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._running[uid] = {"architecture": architecture, "started_at": started_at, "rung": None}
        self._write()

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Note how far the trial is."""
        if uid in self._running:
            self._running[uid]["rung"] = rung.index
            self._write()

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Take the trial away."""
        if self._running.pop(trial.uid, None) is not None:
            self._write()

    def on_sweep_end(self, record: SweepRecord) -> None:
        """What ran does not any more."""
        del record
        self._running.clear()
        self._write()

    def _write(self) -> None:
        try:
            write_text(self._path, json.dumps(self._running) + "\n", durable=False)
        except OSError:  # a full disk is told where something is lost
            return


def read_running(directory: Path) -> dict[str, dict[str, Any]]:
    """What the driver said last; empty when it said nothing that can be read."""
    try:
        found = json.loads((directory / RUNNING_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values()) else {}
