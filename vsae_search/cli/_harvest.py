"""How the harvest of activations shows itself: its pace and what is left, as numbers first, then in words."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsae_search.activations import HarvestProgress

_WINDOW_S = 30.0
"""Time over which the pace is measured: files found on disk, which take no time, are soon forgotten."""
_WORDS = {
    "tokenise": "reading the text",
    "harvest": "harvesting activations",
    "load": "placing activations in the object store",
}


class Pace:
    """How fast rows are coming, from the reports so far."""

    def __init__(self) -> None:
        self.latest: HarvestProgress | None = None
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, progress: HarvestProgress) -> None:
        """Take over a report; a new stage starts afresh."""
        if self.latest is None or self.latest.stage != progress.stage:
            self._seen.clear()
        self.latest = progress
        if not self._seen or self._seen[-1][1] != progress.rows_done:
            self._seen.append((progress.seconds, progress.rows_done))
        while len(self._seen) > 2 and self._seen[1][0] < progress.seconds - _WINDOW_S:
            self._seen.popleft()

    @property
    def rows_per_s(self) -> float | None:
        """Rows per second over the last half minute; None before the first file."""
        if self.latest is None or len(self._seen) < 2:
            return None
        seconds = self.latest.seconds - self._seen[0][0]
        rows = self.latest.rows_done - self._seen[0][1]
        return rows / seconds if seconds > 0 and rows > 0 else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end of the stage at this pace; None while the pace is unknown."""
        if self.latest is None or self.rows_per_s is None:
            return None
        return (self.latest.rows_total - self.latest.rows_done) / self.rows_per_s

    @property
    def finished(self) -> bool:
        """Whether the stage has reached its last row."""
        return self.latest is not None and 0 < self.latest.rows_total == self.latest.rows_done


def in_words(progress: HarvestProgress) -> str:
    """What is being done in a stage."""
    return _WORDS[progress.stage]


def count(number: float) -> str:
    """A number of rows to three digits: ``52.1 k``, ``1.3 M``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"
