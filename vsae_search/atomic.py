"""Replacing a file in one step: a reader, or a killed process, finds the old file or the new one, never a part.

A temporary file is written beside the target, flushed to the disk and renamed. A link in place of the target is
replaced, not followed.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def write_bytes(path: Path, content: bytes, *, mode: int | None = 0o600, durable: bool = True) -> None:
    """Replace a file by new content.

    Args:
        path: File to write; its folder must exist.
        content: All of it.
        mode: Permissions of the file; None for those that the umask gives to a new file.
        durable: Whether to wait until content and name are on the disk, so that a power cut cannot lose them.

    Raises:
        OSError: The file cannot be written; the old one is then untouched.
    """
    with replacing(path, mode=mode, durable=durable) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path, *, mode: int | None = 0o600, durable: bool = True) -> Iterator[Path]:
    """The same for a library that writes the file itself: it is given the path of an empty temporary file.

    Args:
        path: File to write; its folder must exist.
        mode: Permissions of the file; None for those that the umask gives to a new file.
        durable: Whether to wait until content and name are on the disk, so that a power cut cannot lose them.

    Yields:
        Path to write to. It becomes ``path`` at the end of the block, or vanishes when the block raises.

    Raises:
        OSError: The file cannot be written; the old one is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600))
    try:
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_directory(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; a crash could otherwise forget the name of a file whose bytes are on the disk."""
    try:
        _sync(directory)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some network file systems cannot flush a folder
            raise
