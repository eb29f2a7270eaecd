"""What a sweep tells its listeners (progress display, MLflow record) while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vsae_search.search.records import RungRecord, SweepRecord, TrialRecord


class SweepListener(Protocol):
    """Follows a sweep in the driver process.

    Calls come from the loop that schedules trials: they must return within about a millisecond and must not raise.
    A uid can start again after a failure of the infrastructure, and a rung can be reported again by the new attempt.
    Trials that ended in an earlier session of the same sweep are told again through :meth:`on_trial_end` right after
    :meth:`on_sweep_start`, so a listener has to treat a uid that it already knows as the same trial.
    """

    def on_sweep_start(self, record: SweepRecord) -> None:
        """The sweep is about to start its trials; one that has none left tells the same, and its end at once."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """A trial has a worker."""

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """A trial reached a rung."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """A trial ended for good; its record is on disk."""

    def on_sweep_end(self, record: SweepRecord) -> None:
        """The sweep ends or is interrupted; called in every exit path after :meth:`on_sweep_start`."""
