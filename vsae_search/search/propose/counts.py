"""What a study holds, counted; and what is read off one of its trials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIVE = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE)


@dataclass(frozen=True)
class Counts:
    """Trials of one study.

    Attributes:
        uids: Distinct uids: the trials of the budget that have begun.
        running: Trials that have a worker.
        waiting: Trials that wait to be repeated.
        complete: Trials with objectives.
        given_up: Trials whose attempts are used up.
    """

    uids: int
    running: int
    waiting: int
    complete: int
    given_up: int

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial]) -> Counts:
        """Count the trials of a study; one that died before it had its uid does not count."""
        named = [(uid_of(trial), trial.state) for trial in trials]
        named = [(uid, state) for uid, state in named if uid is not None]
        states = [state for _, state in named]
        uids = {uid for uid, _ in named}
        return cls(
            uids=len(uids),
            running=states.count(TrialState.RUNNING),
            waiting=states.count(TrialState.WAITING),
            complete=states.count(TrialState.COMPLETE),
            given_up=len(uids - {uid for uid, state in named if state in _LIVE}),
        )

    @property
    def busy(self) -> int:
        """Trials that run or are done: whoever has the fewest is next."""
        return self.running + self.complete + self.given_up

    def after(self, *, repeated: bool) -> Counts:
        """The counts when one more trial has begun: a new one, or one that waited to be repeated."""
        if repeated:
            return replace(self, waiting=self.waiting - 1, running=self.running + 1)
        return replace(self, uids=self.uids + 1, running=self.running + 1)


def uid_of(trial: FrozenTrial) -> str | None:
    """The trial's uid; None when the driver died before it had one."""
    uid: str | None = trial.user_attrs.get("uid")
    return uid


def attempt_of(trial: FrozenTrial) -> int:
    """How many attempts at the trial were lost before."""
    return int(trial.user_attrs.get("attempt", 0))


def architecture_of(uid: str) -> str:
    """The architecture that a uid names."""
    return uid.rsplit("-", 1)[0]
