"""What a machine can do to a sweep, told apart from bugs: a full disk, a database that somebody holds, a lost GPU."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# of Python, of libraries in Rust, and of SQLite
_FULL_TEXT = re.compile(
    rf"\[Errno ({'|'.join(map(str, sorted(_FULL)))})\]|\(os error ({'|'.join(map(str, sorted(_FULL)))})\)"
    r"|No space left on device|Disk quota exceeded|database or disk is full"
)
_LOCKED_TEXT = "database is locked"
_LOST = ("OperationalError", "InterfaceError")
"""How SQLAlchemy calls what a database server, or the way to it, does."""
_GPU_TEXT = re.compile(r"CUDA error|CUDA driver error|cudaError|CUBLAS_STATUS|NVML|uncorrectable ECC|\bXid\b")


# Ray's words for a worker that went with its machine, or whose machine does not answer; of one that died alone it says
# that its process has died
_NODE_TEXT = re.compile("its node has died|actor is temporarily unavailable")
_MOST_NODES = 10


class LostNodes:
    """Which lost attempts cost nothing: those whose machine went, as spot machines do.

    A trial is excused ten times; one that loses more machines may be what kills them.
    """

    def __init__(self) -> None:
        self._losses: Counter[str] = Counter()

    def excuse(self, uid: str, error: str | None) -> bool:
        """Whether an attempt that ended with this error, in Tune's words, is repeated free of charge."""
        if _NODE_TEXT.search(error or "") is None:
            return False
        self._losses[uid] += 1
        return self._losses[uid] <= _MOST_NODES


class StorageFull(Exception):
    """A worker could not write, because the disk is full."""


def is_full(text: str) -> bool:
    """Whether the text of an error says that a disk is full, or a quota or limit reached."""
    return _FULL_TEXT.search(text) is not None


def told_of_gpu(error: BaseException) -> str:
    """What to do about a GPU that failed under a trial; empty for every other error.

    The worker is replaced in any case: a CUDA context does not survive such an error. Names the machine and its cards,
    since a card that fails again has to be left out by hand.
    """
    if not any(_GPU_TEXT.search(str(link)) for link in _chain(error)):
        return ""
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return (
        f"the GPU failed on {socket.gethostname()} (visible: {cards}); if that goes on, start Ray there without the "
        "card, by CUDA_VISIBLE_DEVICES\n"
    )


@contextmanager
def told_plainly(directory: Path, command: str = "resume") -> Iterator[None]:
    """Tell of a fault of the machine in words, with what to do; other errors pass through.

    Args:
        directory: The sweep directory.
        command: The command that goes on.

    Raises:
        EnvironmentNotReady: The disk is full, or the database is held by another program or does not answer.
    """
    again = f"python -m vsae_search {command} {directory.name}"
    try:
        yield
    except EnvironmentNotReady:
        raise
    except Exception as error:
        if any(isinstance(link, StorageFull) or is_full(str(link)) for link in _chain(error)):
            raise EnvironmentNotReady(
                f"the disk of {directory} is full; no trial was lost that had ended",
                f"make room there, then go on with: {again}",
            ) from error
        if any(_LOCKED_TEXT in str(link) for link in _chain(error)):
            raise EnvironmentNotReady(
                f"the database of the studies in {directory} is held by another program",
                f"end that program, then go on with: {again}",
            ) from error
        lost = next((link for link in _chain(error) if type(link).__name__ in _LOST), None)
        if lost is not None:
            said = str(getattr(lost, "orig", None) or lost).strip().splitlines()
            raise EnvironmentNotReady(
                f"the database of the studies of {directory.name} does not answer: {said[0] if said else 'no reason'}",
                f"start it again, or correct its address and password, then go on with: {again}",
            ) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, down to the bottom."""
    while error is not None:
        yield error
        error = error.__cause__
