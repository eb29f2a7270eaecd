"""The thread that carries events from the spool to MLflow, and waits out every outage."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from vsae_search.tracking.uris import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.tracking.spool import Event, Pending, Spool

BATCH_EVENTS = 200
_LONGEST_PAUSE_S = 60.0
# MLflow's codes for content that will be refused again; everything else may be different later.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS"}

logger = logging.getLogger(__name__)


class Deliver(Protocol):
    """Somewhere that events can be delivered to."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Deliver events in order, or raise."""

    def disconnect(self) -> None:
        """Let go of connections; the next delivery opens them again."""


class Flusher:
    """Delivers a spool in the background.

    Args:
        spool: Where events are taken from.
        target: Where they are taken to; disconnected after every failure, so that nothing stale is kept.
        period_s: Pause between deliveries.
    """

    def __init__(self, spool: Spool, target: Deliver, period_s: float) -> None:
        self.spool = spool
        self.rejected = 0
        self.last_error: str | None = None
        self._target = target
        self._period_s = period_s
        self._since = 0.0
        self._outage = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vsae-tracking", daemon=True)

    def start(self) -> None:
        """Start delivering."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Deliver what is left, for a bounded time; a store that is down is asked once more and not waited for.

        Returns:
            Whether the thread has ended; if not, a request is still waiting for an answer.
        """
        self._closing.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause_s = self._period_s
        while not self._closing.wait(pause_s):
            pause_s = self._period_s if self._round() else min(2 * pause_s, _LONGEST_PAUSE_S)
        while self.spool.pending and self._round():
            pass
        self._target.disconnect()

    def _round(self) -> bool:
        """Deliver one batch after the other until none is left; False when the store cannot be reached."""
        try:
            self.spool.sync()
            while batch := self.spool.read(BATCH_EVENTS):
                self._deliver(batch)
                self.spool.acknowledge(batch)
        except Exception as error:  # the tracking boundary: an outage must not reach the sweep
            self._failed(error)
            return False
        self._recovered()
        return True

    def _deliver(self, batch: list[Pending]) -> None:
        try:
            self._target.deliver([pending.event for pending in batch])
        except Exception as error:
            self._target.disconnect()
            if not is_refusal(error):
                raise
            if len(batch) == 1:
                self._refuse(batch[0], error)
                return
            # one event is at fault: find it, and deliver the others
            for pending in batch:
                self._deliver([pending])

    def _refuse(self, pending: Pending, error: Exception) -> None:
        self.rejected += 1
        self.last_error = describe(error)
        what = f"{pending.event.kind} {pending.event.uid}".strip()
        logger.warning("MLflow refused %s; it stays in %s: %s", what, self.spool.path, self.last_error)

    def _failed(self, error: Exception) -> None:
        self._target.disconnect()
        self.last_error = describe(error)
        if not self._outage:
            self._outage = True
            self._since = time.monotonic()
            logger.warning(
                "MLflow cannot be reached; the sweep goes on and its record waits in %s: %s",
                self.spool.path,
                self.last_error,
            )

    def _recovered(self) -> None:
        if self._outage:
            self._outage = False
            self.last_error = None
            logger.warning("MLflow is back after %.0f s; the record has been delivered", time.monotonic() - self._since)


class ConnectFailed(Exception):
    """The tracking store could not be opened; never the fault of an event."""


def is_refusal(error: Exception) -> bool:
    """Whether MLflow said no to the content, rather than not answering."""
    return getattr(error, "error_code", None) in _REFUSALS


def describe(error: Exception) -> str:
    """An error in one line, without secrets."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return mask_secrets(text)[:500]
