"""Between Tune and a searcher: requests to stop, and errors that Tune would pass over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.search import Searcher

from vsae_search.search.faults import StorageFull, is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsae_search.search.signals import Interrupts


class Guarded(Searcher):  # type: ignore[misc] # Ray ships no types
    """A searcher that stops proposing when the sweep drains, and whose errors end the sweep.

    Tune catches whatever a searcher raises at the end of a trial and carries on; the trial would stay RUNNING in its
    study, and the sweep would wait for it for ever.

    Args:
        searcher: Proposes the trials.
        interrupts: What the sweep has been asked to do; told of errors.
    """

    def __init__(self, searcher: Searcher, interrupts: Interrupts) -> None:
        super().__init__()
        self._proposing, self.interrupts = searcher, interrupts  # Tune looks inside for an attribute "searcher"

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, or ``FINISHED`` while the sweep drains."""
        proposed: dict[str, Any] | str | None = self.FINISHED
        if not self.interrupts.draining:
            proposed = self._proposing.suggest(trial_id)
        return proposed

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Pass a report on; an attempt that found the disk full ends the sweep and keeps its place in the study."""
        if result.get("state") == "failed" and is_full(str(result.get("record"))):
            self.interrupts.fail(StorageFull())
            return
        self._proposing.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Pass the end of a trial on; after an error nothing more is recorded, the next session puts it right."""
        if self.interrupts.error is not None:
            return
        try:
            self._proposing.on_trial_complete(trial_id, result, error)
        except Exception as raised:
            self.interrupts.fail(raised)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies and the records are on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its configuration for a restore that is never done."""
        return {}


class InterruptsCallback(Callback):  # type: ignore[misc] # Ray ships no types
    """Lets the sweep leave Tune's loop between two events.

    Args:
        interrupts: What the sweep has been asked to do.
        on_drain: Called once, with the number of trials that are still to finish.
    """

    def __init__(self, interrupts: Interrupts | None, on_drain: Callable[[int], None] | None = None) -> None:
        self._interrupts, self._on_drain = interrupts, on_drain

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times a second."""
        del iteration, info
        if self._interrupts is None:
            return
        self._interrupts.check()
        if self._interrupts.draining and self._on_drain is not None:
            told, self._on_drain = self._on_drain, None
            told(sum(not trial.is_finished() for trial in trials))

    def __getstate__(self) -> dict[str, Any]:
        """Only the class goes into Tune's pickles."""
        return {"_interrupts": None, "_on_drain": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> InterruptsCallback:
        """Tune copies its configuration; the copy has to look at the same requests."""
        return self
