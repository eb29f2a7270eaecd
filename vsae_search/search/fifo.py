"""First in, first out, without a walk over every trial of the sweep.

Tune's own scheduler looks for the next trial among all trials that there ever were, several times for each of them, so
that a sweep gets slower with every trial that has ended.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler


class FirstLive(FIFOScheduler):  # type: ignore[misc] # Ray ships no types
    """Runs every trial to its end, in the order in which they were proposed."""

    def __init__(self) -> None:
        super().__init__()
        self._live: list[Any] = []

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Remember a trial until it has ended."""
        super().on_trial_add(tune_controller, trial)
        self._live.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits to be started, or else to go on; None when there is none."""
        del tune_controller
        self._live = [trial for trial in self._live if not trial.is_finished()]
        for status in (Trial.PENDING, Trial.PAUSED):
            for trial in self._live:
                if trial.status == status:
                    return trial
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Only the class goes into Tune's pickles, which are never read."""
        return {"_live": []}
