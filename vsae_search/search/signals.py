"""Signals of a sweep: SIGTERM stops it like Ctrl-C, and handlers that Ray replaces are put back."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def terminable() -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C; only the main thread can, in another one nothing changes.

    Raises:
        Terminated: A KeyboardInterrupt that SIGTERM has caused.
    """
    terminated = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        del number
        terminated = True
        handler = signal.getsignal(signal.SIGINT)  # Tune's lets its trials end, Python's raises
        if not callable(handler):  # Ctrl-C is ignored, as it is in the background of a shell script
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    with _kept(signal.SIGTERM) as ours:
        if ours:
            signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        except KeyboardInterrupt:
            if terminated:
                raise Terminated from None
            raise


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Put back the signal handlers that Tune replaces and leaves replaced."""
    with _kept(signal.SIGINT, signal.SIGUSR1):
        yield


@contextmanager
def own_termination() -> Iterator[None]:
    """Put back the handler of SIGTERM that starting Ray replaces; Ray's own aborts the process."""
    with _kept(signal.SIGTERM):
        yield


@contextmanager
def _kept(*numbers: signal.Signals) -> Iterator[bool]:
    """Put back the handlers of signals; yields whether this thread may change them."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield True
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
