"""How a sweep is asked to stop: Ctrl-C, SIGTERM, or a request in its directory; and handlers that Ray replaces.

| asked by                              | while trials run                                     | otherwise  |
|---------------------------------------|------------------------------------------------------|------------|
| Ctrl-C (SIGINT), ``stop``             | no trial is started, those that run finish           | ends       |
| Ctrl-C again, SIGTERM, ``stop --now`` | trials are stopped; each goes on from its checkpoint | ends       |
| Ctrl-C for the third time             | ends without waiting for the workers                 |            |

A signal only leaves a note here, and the loop that schedules trials reads it between two events: nothing is cut off
between the record of a trial on disk and what its study is told.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class SweepStopped(Exception):
    """Ends the loop that schedules trials, between two of its events."""


class Interrupts:
    """What a sweep has been asked to do.

    Attributes:
        draining: No more trials are to be started.
        now: The trials that run are to be stopped.
        terminated: SIGTERM asked for it.
        requested: A request in the sweep directory asked for it.
        error: Something that the sweep cannot go on with.
        handled: Whether signals to this process come here.
    """

    def __init__(self) -> None:
        self.draining = self.now = self.terminated = self.requested = False
        self.error: Exception | None = None
        self.handled = False
        self._looping = False

    @contextmanager
    def looping(self) -> Iterator[None]:
        """While this is held, somebody calls :meth:`check` several times a second."""
        self._looping = True
        try:
            yield
        finally:
            self._looping = False

    def check(self) -> None:
        """Leave the loop if that has been asked for.

        Raises:
            SweepStopped: The trials that run are to be stopped.
            Exception: What :meth:`fail` was given.
        """
        self.raise_error()
        if self.now:
            raise SweepStopped

    def raise_error(self) -> None:
        """Raise what :meth:`fail` was given, if anything."""
        if self.error is not None:
            raise self.error

    def fail(self, error: Exception) -> None:
        """Have the loop end with an error, raised where Tune would pass over it."""
        self.error = self.error or error

    def ask(self, *, now: bool) -> None:
        """Ask from any thread; before the trials have started the sweep ends at once, as with a signal."""
        first, self.requested, self.draining = not self.requested, True, True
        self.now = self.now or now
        if first and self.handled and not self._looping:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handler of SIGINT."""
        del number, frame
        if not self._looping or self.now:
            raise KeyboardInterrupt
        self.draining, self.now = True, self.draining

    def on_terminate(self, number: int, frame: FrameType | None) -> None:
        """Handler of SIGTERM."""
        del number, frame
        self.terminated = self.draining = self.now = True
        if not self._looping:
            raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[Interrupts]:
    """Stop in order on SIGINT and SIGTERM; only the main thread can, in another one signals do what they did.

    Where Ctrl-C is ignored, as it is in the background of a shell script, it stays so.

    Yields:
        What the sweep has been asked to do.

    Raises:
        Terminated: In place of a KeyboardInterrupt that SIGTERM has caused.
    """
    interrupts = Interrupts()
    with _kept(signal.SIGINT, signal.SIGTERM) as ours:
        interrupts.handled = ours
        if ours:
            signal.signal(signal.SIGTERM, interrupts.on_terminate)
            if callable(signal.getsignal(signal.SIGINT)):
                signal.signal(signal.SIGINT, interrupts.on_interrupt)
        try:
            yield interrupts
        except KeyboardInterrupt:
            if interrupts.terminated and not interrupts.requested:
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
