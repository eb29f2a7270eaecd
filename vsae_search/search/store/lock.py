"""One driver per sweep directory."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

import psutil

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILE = "driver.lock"
Task = Literal["sweep", "confirm"]
HEARD_LIMIT_S = 60.0
"""A driver touches its lock every ten seconds; one of another machine that has not for this long is taken for dead."""
_POLL_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Driver:
    """Who holds, or held, a sweep directory.

    Attributes:
        host: Its machine.
        pid: Its process there.
        here: Whether that is this machine.
        heard_s: Seconds since it touched its lock, by the clock of the file system.
        alive: Whether it runs.
        task: What it does there: ``sweep`` or ``confirm``.
    """

    host: str
    pid: int
    here: bool
    heard_s: float
    alive: bool
    task: str = "sweep"


@contextmanager
def driver_lock(directory: Path, task: Task = "sweep") -> Iterator[None]:
    """Hold the sweep directory for this process.

    The operating system's file lock keeps drivers of one machine apart, and goes with the process however it ends.
    The file also names its holder, because not every shared file system passes locks on to other machines. A holder of
    another machine, which may be gone for good, is waited for until it is heard of or has been silent for a minute.

    Args:
        directory: The sweep directory.
        task: What it is held for.

    Raises:
        EnvironmentNotReady: Another driver holds it; or the lock cannot be written.
    """
    path = directory / LOCK_FILE
    with _opened(path) as file:
        _acquire(file, path)
        file.seek(0)
        file.truncate()
        pid = os.getpid()
        name = {"host": socket.gethostname(), "pid": pid, "created": _created(pid), "task": task}
        json.dump(name, file)
        file.flush()
        try:
            yield
        finally:
            if _holder(file) == name:  # else this process was silent, and another one has taken over
                file.seek(0)
                file.truncate()


def driver_of(directory: Path) -> Driver | None:
    """The driver whose name is in the lock; None when the last one let go of it, or there never was one.

    Args:
        directory: The sweep directory.
    """
    path = directory / LOCK_FILE
    try:
        with path.open() as file:
            holder, touched = _holder(file), os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    pid, host = holder.get("pid"), str(holder.get("host"))
    if not isinstance(pid, int):
        return None
    here, heard_s = host == socket.gethostname(), max(0.0, _file_time(directory) - touched)
    alive = _created(pid) == holder.get("created") if here else heard_s < HEARD_LIMIT_S
    return Driver(host, pid, here, heard_s, alive, str(holder.get("task", "sweep")))


def is_taken_over(directory: Path) -> bool:
    """Whether the lock names another driver than this process, which held it and was silent for too long.

    Args:
        directory: The sweep directory.
    """
    driver = driver_of(directory)
    return driver is not None and not (driver.here and driver.pid == os.getpid())


def _file_time(directory: Path) -> float:
    """The time at which the file system says that it is: that of another machine may differ from ours."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # one may look without being allowed to write
        return time.time()


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
        _outwait(path.parent)


def _outwait(directory: Path) -> None:
    """Wait until the driver of another machine has been silent for so long that it is dead.

    Whoever repeats a job that lost its machine (Kubernetes, Slurm) runs it on another one, and nobody is there to say
    that the first is gone.

    Raises:
        EnvironmentNotReady: It is alive.
    """
    heard_s = -1.0
    while (driver := driver_of(directory)) is not None and driver.alive:
        if driver.here or driver.heard_s < heard_s:  # it has touched its lock
            raise EnvironmentNotReady(
                f"the sweep in {directory} is being run by process {driver.pid} on {driver.host}",
                "wait for it, stop it, or give this sweep another name with --name",
            )
        if heard_s < 0.0:
            logger.warning(
                "%s on %s was heard of %.0f s ago; going on in its place after %.0f s of silence",
                *("the driver", driver.host, driver.heard_s, HEARD_LIMIT_S),
            )
        heard_s = driver.heard_s
        time.sleep(_POLL_S)


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
