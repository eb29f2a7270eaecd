"""Proposals that are made in the background while trials run."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsae_search.search.propose.model import Model, Proposal

Key = tuple[str, int]
"""A study, and the position of a trial in it."""

_logger = logging.getLogger(__name__)


class Ahead:
    """One thread that makes proposals, one after the other.

    The thread works on copies in memory and never touches the database: whatever it does, results are told and trials
    begin without waiting for it, and a driver that dies loses nothing but the time the thread has worked. A proposal
    is a trial only when it has been taken.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proposals")
        self._made: dict[Key, Future[Proposal]] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether a proposal is made, or being made."""
        return key in self._made

    def begin(self, key: Key, model: Model) -> None:
        """Start to make a proposal."""
        self._made[key] = self._pool.submit(model.propose)

    def ready(self, key: Key) -> bool:
        """Whether a proposal can be taken without waiting."""
        return key in self._made and self._made[key].done()

    def take(self, key: Key) -> Proposal | None:
        """Take a proposal, waiting until it is made.

        Returns:
            The proposal; None when the model failed.
        """
        return attempt(self._made.pop(key).result, key)

    def drop(self, key: Key) -> None:
        """Do without a proposal."""
        if key in self._made:
            self._made.pop(key).cancel()

    def busy(self, study: str) -> bool:
        """Whether a proposal of a study is being made."""
        return any(name == study and not future.done() for (name, _), future in self._made.items())

    def waiting(self, study: str) -> list[Proposal]:
        """Proposals of a study that are made and not taken."""
        made = [future for (name, _), future in self._made.items() if name == study and future.done()]
        return [future.result() for future in made if not future.cancelled() and future.exception() is None]

    def close(self) -> None:
        """End the thread; a proposal that is being made is waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def attempt(propose: Callable[[], Proposal], key: Key) -> Proposal | None:
    """What a model proposes; None, and a line in the log, when it fails."""
    try:
        return propose()
    except Exception as error:  # the boundary of the model: numerics must not end a sweep
        _logger.warning("proposal.failed study=%s index=%d error=%r", *key, error)
        return None
