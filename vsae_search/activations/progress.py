"""How far the building of a bank has got: plain numbers for whoever shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage = Literal["tokenise", "harvest", "load"]


@dataclass(frozen=True)
class HarvestProgress:
    """How far one stage of the building of a bank has got.

    Attributes:
        stage: ``tokenise`` while a text is read, ``harvest`` while files are written or found on disk, ``load`` while
            they are placed in the object store.
        rows_done: Rows in the files that are finished.
        rows_total: Rows in all files; 0 while a text is tokenised, since nothing is counted then.
        seconds: Time since the stage began.
    """

    stage: Stage
    rows_done: int
    rows_total: int
    seconds: float


OnProgress: TypeAlias = Callable[[HarvestProgress], None]


class ProgressReporter:
    """Counts finished files and tells of them.

    Args:
        on_progress: Told at the beginning of a stage, after every file, and about once a second in between.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._stage: Stage = "harvest"
        self._rows: Sequence[int] = ()
        self._done = 0
        self._started = time.monotonic()

    def begin(self, stage: Stage, rows: Sequence[int] = ()) -> None:
        """Begin a stage with one file for each number of rows."""
        self._stage, self._rows, self._done, self._started = stage, rows, 0, time.monotonic()
        self.tick()

    def finish(self, index: int) -> None:
        """Count a file."""
        self._done += self._rows[index]
        self.tick()

    def tick(self) -> None:
        """Tell how far it is."""
        if self._on_progress is not None:
            seconds = time.monotonic() - self._started
            self._on_progress(HarvestProgress(self._stage, self._done, sum(self._rows), seconds))
