"""Append-only local file of everything that is to reach MLflow, with a mark of how much of it has.

One JSON object per line. A crash can leave a torn last line; the next session ends it with a newline, and readers pass
over it. The mark moves after delivery, so an event is delivered at least once, and delivery is idempotent. Deleting the
mark (``delivered.json``) makes the next session deliver everything again, for instance into a new server.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vsae_search.search.records import write_text
from vsae_search.tracking.index import TRACKING_FOLDER
from vsae_search.tracking.uris import mask_nested

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS_FILE = "events.jsonl"
MARK_FILE = "delivered.json"

EventKind = Literal["sweep_start", "trial_start", "rung", "trial_end", "sweep_end", "report"]
_KINDS = ("sweep_start", "trial_start", "rung", "trial_end", "sweep_end", "report")
_HEADER = "spool"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: What happened.
        uid: The trial; empty for the sweep itself.
        time_ms: When, in milliseconds since 1970.
        data: JSON-able content.
    """

    kind: EventKind
    uid: str = ""
    time_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    data: dict[str, Any] = field(default_factory=dict)


def has_spool(directory: Path) -> bool:
    """Whether a sweep, given by its directory, has been recorded: what never was has no run to add anything to."""
    return (directory / TRACKING_FOLDER / EVENTS_FILE).is_file()


@dataclass(frozen=True)
class Pending:
    """An event in the file, and the offset in bytes at which its line ends."""

    event: Event
    end: int


class Spool:
    """The spool of one sweep; appended to by one thread and read by another.

    Args:
        folder: Where the two files are kept; created when missing, readable by the owner only.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / EVENTS_FILE
        self._mark_path = folder / MARK_FILE
        self._lock = threading.Lock()
        # O_NOFOLLOW: a link planted in the directory must not redirect the writes
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._unsynced = False
        self._unreadable: set[int] = set()
        self._end_torn_line()
        self.pending = 0
        self.id = self._read_id()
        self._mark = self._read_mark()
        self.delivered = sum(1 for pending in self.scan() if pending.end <= self._mark)
        self.pending = sum(1 for _ in self.scan(self._mark))

    def append(self, event: Event) -> None:
        """Hand an event to the operating system.

        It survives the end of this process at once, and that of the machine after :meth:`sync`.

        Raises:
            OSError: the disk is full or gone.
        """
        self._write(mask_nested(asdict(event)), events=1)

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        if self._unsynced:
            self._unsynced = False
            os.fsync(self._file)

    def read(self, limit: int) -> list[Pending]:
        """The oldest events that are not acknowledged, at most ``limit``."""
        found: list[Pending] = []
        for pending in self.scan(self._mark):
            found.append(pending)
            if len(found) == limit:
                break
        return found

    def scan(self, start: int = 0) -> Iterator[Pending]:
        """Every readable event whose line begins at or after an offset, oldest first."""
        for value, end in self._lines(start):
            if value.get("kind") in _KINDS:
                yield Pending(_event(value), end)

    def acknowledge(self, delivered: list[Pending]) -> None:
        """Move the mark past events that reached MLflow."""
        if not delivered:
            return
        self._mark = delivered[-1].end
        # a lost or older mark repeats deliveries, which is harmless
        write_text(self._mark_path, json.dumps({"offset": self._mark}))
        with self._lock:
            self.pending -= len(delivered)
            self.delivered += len(delivered)

    def close(self) -> None:
        """Force everything onto the disk and let go of the file."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1

    def _write(self, value: dict[str, Any], events: int = 0) -> None:
        line = json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            written = os.write(self._file, line)
            self._unsynced = True
            if written != len(line):  # the disk filled up in the middle: end the torn line when there is room again
                os.write(self._file, b"\n")
                raise OSError(f"{self.path}: wrote {written} of {len(line)} bytes")
            self.pending += events

    def _lines(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written at this moment
                start += len(line)
                try:
                    value = json.loads(line)
                except ValueError:
                    self._report_unreadable(start)
                    continue
                if isinstance(value, dict):
                    yield value, start

    def _report_unreadable(self, end: int) -> None:
        if end not in self._unreadable:
            self._unreadable.add(end)
            logger.warning("%s: an unreadable line that ends at byte %d is passed over", self.path, end)

    def _end_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def _read_id(self) -> str:
        """Random name of this spool, by which MLflow's run of the sweep is found: two sweeps may be named alike."""
        for value, _ in self._lines(0):
            if value.get("kind") == _HEADER:
                return str(value["id"])
        name = uuid.uuid4().hex
        self._write({"kind": _HEADER, "id": name})
        return name

    def _read_mark(self) -> int:
        try:
            offset = json.loads(self._mark_path.read_bytes())["offset"]
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s); everything is delivered again", self._mark_path, error)
            return 0
        whole = isinstance(offset, int) and 0 <= offset <= os.fstat(self._file).st_size
        return offset if whole else 0


def _event(value: dict[str, Any]) -> Event:
    return Event(
        kind=value["kind"], uid=value.get("uid", ""), time_ms=value.get("time_ms", 0), data=value.get("data", {})
    )
