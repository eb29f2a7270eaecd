"""What a machine can do to a sweep, told apart from bugs: a full disk, a database that somebody holds."""

from __future__ import annotations

import errno
import re
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


class StorageFull(Exception):
    """A worker could not write, because the disk is full."""


def is_full(text: str) -> bool:
    """Whether the text of an error says that a disk is full, or a quota or limit reached."""
    return _FULL_TEXT.search(text) is not None


@contextmanager
def told_plainly(directory: Path, command: str = "resume") -> Iterator[None]:
    """Tell of a fault of the machine in words, with what to do; other errors pass through.

    Args:
        directory: The sweep directory.
        command: The command that goes on.

    Raises:
        EnvironmentNotReady: The disk is full, or the database is held by another program.
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
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, down to the bottom."""
    while error is not None:
        yield error
        error = error.__cause__
