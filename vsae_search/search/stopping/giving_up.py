"""Architectures of which nothing comes: their budget is not spent to the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.search.propose.studies import Studies
    from vsae_search.search.records import ArchitecturePlan, RungRecord, SweepRecord, TrialRecord

_NOTHING = ("diverged", "failed")


class GivingUp:
    """A listener that gives an architecture up when all of its first trials diverged or failed.

    It knows what the records say and nothing else, so a sweep that is started again comes to the same conclusion; with
    a larger ``limit`` it goes on.

    Args:
        limit: Trials after which an architecture without a single success is given up; None for never.
        studies: Told which architectures to leave.

    Attributes:
        given_up: Architecture to the number of its trials, all of which diverged or failed.
    """

    def __init__(self, limit: int | None, studies: Studies) -> None:
        self.given_up: dict[str, int] = {}
        self._limit, self._studies = limit, studies
        self._uids: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._fruitful: set[str] = set()

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Count a trial; one that is told again counts once."""
        if trial.uid in self._uids:
            return
        self._uids.add(trial.uid)
        name = trial.architecture
        if trial.state not in _NOTHING:
            self._fruitful.add(name)
            if self.given_up.pop(name, None):  # it was running when the architecture was given up
                self._studies.take_up(name)
            return
        self._lost[name] += 1
        if self._limit is not None and name not in self._fruitful and self._lost[name] >= self._limit:
            self.given_up[name] = self._lost[name]
            self._studies.give_up(name)

    def marked(self, plans: Mapping[str, ArchitecturePlan]) -> dict[str, ArchitecturePlan]:
        """Plans that say after how many trials their architecture was given up."""
        return {
            name: plan.model_copy(update={"given_up_after": self.given_up.get(name)}) for name, plan in plans.items()
        }

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Nothing."""

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing."""

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Nothing."""
