"""Tune's callbacks, passed on to the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from vsae_search.search.assignment import Assignment
from vsae_search.search.propose.searcher import parse_record

if TYPE_CHECKING:
    from vsae_search.search.store.ledger import Ledger

_ERROR_LENGTH = 4000


class LedgerCallback(Callback):  # type: ignore[misc] # Ray ships no types
    """Tells the ledger when trials start and reach rungs, and keeps Tune's trials to look up their errors.

    Ends are told by the searcher, which decides whether a trial is to be repeated. Tune pickles its callbacks; the
    ledger, with its listeners, stays behind.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._trials: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a worker."""
        del iteration, trials, info
        self._trials[trial.trial_id] = trial
        if self._ledger is not None:
            self._ledger.start(Assignment(**trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported a rung, or its end."""
        del iteration, trials, info
        record = parse_record(result, Assignment(**trial.config))
        if self._ledger is not None and record is not None:
            self._ledger.reached(record)

    def error_of(self, trial_id: str) -> str | None:
        """The end of the text of a trial's error, when Tune has recorded one."""
        trial = self._trials.pop(trial_id, None)
        path = None if trial is None or not trial.error_file else Path(trial.error_file)
        return path.read_text()[-_ERROR_LENGTH:] if path is not None and path.is_file() else None

    def __getstate__(self) -> dict[str, Any]:
        """Only the class goes into Tune's pickles."""
        return {"_ledger": None, "_trials": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> LedgerCallback:
        """Tune copies its configuration; the copy has to tell the same ledger."""
        return self
