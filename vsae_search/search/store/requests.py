"""Asking a sweep to stop from another process: a file in its directory, which every node of a cluster sees."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vsae_search.search.records import write_text
from vsae_search.search.store.lock import LOCK_FILE, is_taken_over

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsae_search.search.signals import Interrupts

STOP_FILE = "stop.json"
POLL_S = 0.5
HEARTBEAT_POLLS = 20
"""The lock is touched every ten seconds, so that another machine can see that the driver is alive."""


def request_stop(directory: Path, *, now: bool) -> None:
    """Ask the driver of a sweep to stop; it looks every half second, and takes the request away when it has ended.

    Args:
        directory: The sweep directory.
        now: Stop the trials that run, instead of letting them finish.
    """
    write_text(directory / STOP_FILE, json.dumps({"now": now}) + "\n")


def stop_requested(directory: Path) -> bool | None:
    """Whether the trials that run are to be stopped too; None when nobody has asked for anything."""
    try:
        request = json.loads((directory / STOP_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return isinstance(request, dict) and request.get("now") is True


@contextmanager
def stop_requests(directory: Path, interrupts: Interrupts) -> Iterator[None]:
    """Pass requests on to the sweep, and keep the lock's time fresh.

    A request that was left behind by an earlier session is taken away first.

    Args:
        directory: The sweep directory; this process holds its lock.
        interrupts: Told of requests.
    """
    clear_request(directory)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(directory, interrupts, over), name="vsae-requests", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        if stop_requested(directory) is not None:  # seen by nobody: a signal was faster
            interrupts.requested = True
        clear_request(directory)


def clear_request(directory: Path) -> None:
    """Take a request away."""
    (directory / STOP_FILE).unlink(missing_ok=True)


def _watch(directory: Path, interrupts: Interrupts, over: threading.Event) -> None:
    polls = 0
    while not over.wait(POLL_S):
        polls += 1
        if polls % HEARTBEAT_POLLS == 0:
            if is_taken_over(directory):  # this process, or its way to the folder, was held up for more than a minute
                interrupts.ask(now=True)
                return
            _touch(directory / LOCK_FILE)
        now = stop_requested(directory)
        if now is not None:
            interrupts.ask(now=now)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # a folder that is gone for a moment; the next time it may be back
        return


def signal_driver(pid: int) -> bool:
    """Have the driver on this machine look at the request even where it is busy with something else.

    Args:
        pid: Its process.

    Returns:
        Whether there is such a process.
    """
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True
