"""The listeners of a sweep, and letting go of them in every exit path."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from vsae_search.cli import _console
from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsae_search.cli._progress import LiveProgress, PlainProgress
    from vsae_search.search import SweepListener
    from vsae_search.space import TrackingSpec
    from vsae_search.tracking import TrackingStatus

CLOSE_TERMINATED_S = 5.0
"""What is left of the MLflow record gets no longer than this after SIGTERM: whoever sent it may soon send SIGKILL."""


@contextmanager
def tracked(
    directory: Path, spec: TrackingSpec, progress: LiveProgress | PlainProgress, *, store: Path | None = None
) -> Iterator[list[SweepListener]]:
    """The record in MLflow, event files where they are asked for, and the display.

    Args:
        directory: What is recorded lies here.
        spec: Where it is recorded.
        progress: The display.
        store: The folder whose database is used when no address is given; None for ``directory``.

    Yields:
        The listeners.
    """
    from vsae_search.tracking import MlflowListener, TensorboardListener
    from vsae_search.tracking.listener import CLOSE_TIMEOUT_S

    boards = [TensorboardListener(directory)] if spec.tensorboard else []
    tracking, limit_s = MlflowListener(directory, spec, store=store), CLOSE_TIMEOUT_S
    try:
        yield [tracking, *boards, progress]
    except Terminated:
        limit_s = CLOSE_TERMINATED_S
        raise
    finally:
        for board in boards:
            board.close()
        progress.stage("finishing the MLflow record")
        warn_undelivered(tracking.close(limit_s))


def warn_undelivered(status: TrackingStatus) -> None:
    """Say what MLflow does not have yet."""
    if not status.complete:
        _console.note(f"MLflow at {status.uri} lacks {status.pending} events: {status.last_error or 'it was too slow'}")
        _console.note("they are kept, and delivered when the same command is given again")
