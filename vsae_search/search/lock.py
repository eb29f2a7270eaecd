"""One driver per sweep directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import psutil

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILE = "driver.lock"


@contextmanager
def driver_lock(directory: Path) -> Iterator[None]:
    """Hold the sweep directory for this process.

    The operating system's file lock keeps drivers of one machine apart, and goes with the process however it ends.
    The file also names its holder, because not every shared file system passes locks on to other machines.

    Args:
        directory: The sweep directory.

    Raises:
        EnvironmentNotReady: Another driver holds it, or one of another machine left its name; or the lock cannot be
            written.
    """
    path = directory / LOCK_FILE
    with _opened(path) as file:
        _acquire(file, path)
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "created": _created(os.getpid())}, file)
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError as error:
        raise EnvironmentNotReady(
            f"{path} cannot be written: {error.strerror}", "make the folder writable, or give another one with --root"
        ) from error


def _acquire(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        raise EnvironmentNotReady(
            f"the sweep in {path.parent} is being run by process {holder.get('pid')} on {holder.get('host')}",
            "wait for it, stop it, or give this sweep another name with --name",
        ) from error
    holder = _holder(file)
    if holder and not _stale(holder):
        raise EnvironmentNotReady(
            f"the sweep in {path.parent} was started by process {holder.get('pid')} on {holder.get('host')}, "
            "which may still be running",
            f"if it is not, delete {path} and start again",
        )


def _holder(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        holder = json.load(file)
    except json.JSONDecodeError:  # empty: let go of properly; torn: its writer died
        return {}
    return holder if isinstance(holder, dict) else {}


def _stale(holder: dict[str, object]) -> bool:
    """Whether the holder named in the file is known to be gone; of another machine nothing is known."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    return pid == os.getpid() or _created(pid) != holder.get("created")


def _created(pid: int) -> float | None:
    """When a process was started, which tells it from an earlier one with the same number."""
    try:
        created: float = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return created
