"""One Optuna study per architecture, with explicit trial states that survive a crash at any point.

| what happened                                   | told to Optuna                                        |
|-------------------------------------------------|-------------------------------------------------------|
| completed                                       | COMPLETE, objectives, constraint -1                   |
| diverged (non-finite or missing objective, OOM) | COMPLETE, worst objectives, constraint +1             |
| stopped early                                   | COMPLETE, objectives of the last rung, constraint +1  |
| failure of the infrastructure                   | FAIL, and enqueued again under the same uid           |

Samplers ignore FAIL, so a diverged trial told so would be proposed again and again; told as the worst point it is
learnt from, and the constraint keeps it out of ``best_trials``. Only the driver touches the storage.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from vsae_search.search.assignment import Assignment
from vsae_search.search.database import open_database
from vsae_search.search.samplers import SamplerName, sampler_for, spread_trials
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from optuna.study import Study

    from vsae_search.search.proposals import Proposals

_CONSTRAINT = "unusable"
_LIVE = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE)


@dataclass(frozen=True)
class Plan:
    """The part of one architecture in a sweep.

    Attributes:
        proposals: Its searched and constant hyper-parameters.
        budget: Trials in all.
        startup: Sobol points before a model proposes.
    """

    proposals: Proposals
    budget: int
    startup: int


@dataclass(frozen=True)
class Told:
    """The end of a trial as the sampler sees it: objectives, and whether the trial may be called a good one."""

    values: tuple[float, float]
    usable: bool


class Studies:
    """Proposes trials and is told how they ended; the storage is the only state that matters.

    Args:
        sweep: Prefix of the study names.
        seed: Seed of the sweep.
        plans: Architecture to its plan, in the order in which ties are broken.
        sampler: Who proposes after the start-up points.
        max_retries: How often a trial is repeated after a failure of the infrastructure.
        storage: SQLAlchemy address of the database.
    """

    def __init__(
        self,
        sweep: str,
        seed: int,
        plans: Mapping[str, Plan],
        *,
        sampler: SamplerName,
        max_retries: int,
        storage: str,
    ) -> None:
        self.seed, self.plans, self.sampler, self.max_retries = seed, dict(plans), sampler, max_retries
        with _quiet():
            self._storage = open_database(storage)
            self._studies = {name: self._open(f"{sweep}/{name}") for name in plans}

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def ask(self) -> Assignment | None:
        """The next trial, of the architecture with the fewest trials that are running or done.

        Returns:
            A trial that is now RUNNING in its study, or None when every budget is spent or being spent.
        """
        counts = {name: self._counts(name) for name in self.plans}
        # ties go to the first architecture: min is stable
        open_ = [name for name in self.plans if counts[name].waiting or counts[name].uids < self.plans[name].budget]
        if not open_:
            return None
        name = min(open_, key=lambda architecture: counts[architecture].busy)
        with _quiet():
            return self._ask(name, counts[name])

    def exhausted(self) -> bool:
        """Whether every budget is spent: nothing is running and nothing waits to be repeated."""
        return all(
            counts.uids >= self.plans[name].budget and not counts.running and not counts.waiting
            for name, counts in ((name, self._counts(name)) for name in self.plans)
        )

    def tell(self, uid: str, told: Told) -> bool:
        """Record the end of a trial; telling it again changes nothing.

        Args:
            uid: A trial that was asked for.
            told: Its objectives and whether it counts as a good one.

        Returns:
            Whether this call ended the trial.
        """
        study, running = self._running(uid)
        if running is None:
            return False
        with _quiet():
            trial = Trial(study, running._trial_id)
            if not running.constraints:  # a crash can come between the constraint and the end
                trial.set_constraint(_CONSTRAINT, -1.0 if told.usable else 1.0)
            study.tell(running.number, list(told.values), skip_if_finished=True)
        return True

    def retries_left(self, uid: str) -> bool:
        """Whether a failure of the attempt that is running would be repeated."""
        _, running = self._running(uid)
        return running is not None and _attempt(running) < self.max_retries

    def fail(self, uid: str) -> bool:
        """Record that the infrastructure lost a trial, and enqueue it again while attempts are left.

        Returns:
            Whether this call ended an attempt; False when the trial was not running.
        """
        study, running = self._running(uid)
        if running is None:
            return False
        attempt = _attempt(running) + 1
        # enqueued first: a crash in between leaves both, which reconcile() puts right
        if attempt <= self.max_retries:
            self._enqueue(study, running, attempt)
        self._fail(study, running)
        return True

    def reconcile(self, ended: Mapping[str, Told | None]) -> list[str]:
        """Put the studies right after the driver died: no trial may stay RUNNING without a worker.

        Args:
            ended: Trials whose record is on disk, by uid: how they ended, or None for those given up on.

        Returns:
            The uids that were running with nothing on disk; they are enqueued again and lose no attempt.
        """
        orphans = []
        for study in self._studies.values():
            trials = study.get_trials(deepcopy=False)
            waiting = {_uid(trial) for trial in trials if trial.state == TrialState.WAITING}
            for trial in trials:
                if trial.state != TrialState.RUNNING:
                    continue
                uid = _uid(trial)
                told = ended.get(uid) if uid is not None else None
                if uid is not None and told is not None:
                    self.tell(uid, told)
                    continue
                if uid is not None and uid not in ended:
                    orphans.append(uid)
                    if uid not in waiting:
                        self._enqueue(study, trial, _attempt(trial))
                self._fail(study, trial)
        return orphans

    def _open(self, name: str) -> Study:
        return optuna.create_study(
            study_name=name, storage=self._storage, directions=["minimize", "minimize"], load_if_exists=True
        )

    def _ask(self, name: str, counts: _Counts) -> Assignment:
        study, plan = self._studies[name], self.plans[name]
        uid = f"{name}-{counts.uids:04d}"
        study.sampler = sampler_for(self.sampler, seed=derive_seed(self.seed, "propose", uid), finished=counts.complete)
        if not counts.waiting and counts.uids < spread_trials(self.sampler, plan.startup, plan.budget):
            study.enqueue_trial(plan.proposals.point(counts.uids), user_attrs={"uid": uid, "attempt": 0})
        trial = study.ask(plan.proposals.distributions)
        if "uid" not in trial.user_attrs:
            trial.set_user_attr("uid", uid)
        uid = trial.user_attrs["uid"]
        return Assignment(
            uid=uid,
            architecture=name,
            number=int(uid.rsplit("-", 1)[1]),
            params=plan.proposals.params(trial.params),
            seed=derive_seed(self.seed, "train", uid),
            attempt=trial.user_attrs.get("attempt", 0),
        )

    def _counts(self, name: str) -> _Counts:
        trials = [t for t in self._studies[name].get_trials(deepcopy=False) if _uid(t) is not None]
        states = [trial.state for trial in trials]
        return _Counts(
            uids=len({_uid(trial) for trial in trials}),
            running=states.count(TrialState.RUNNING),
            waiting=states.count(TrialState.WAITING),
            complete=states.count(TrialState.COMPLETE),
            given_up=len({_uid(t) for t in trials} - {_uid(t) for t in trials if t.state in _LIVE}),
        )

    def _running(self, uid: str) -> tuple[Study, FrozenTrial | None]:
        study = self._studies[uid.rsplit("-", 1)[0]]
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return study, next((trial for trial in running if _uid(trial) == uid), None)

    def _enqueue(self, study: Study, trial: FrozenTrial, attempt: int) -> None:
        # an enqueued trial that died while its parameters were being set still knows all of them
        params = trial.system_attrs.get("fixed_params", trial.params)
        study.enqueue_trial(params, user_attrs={"uid": _uid(trial), "attempt": attempt})

    def _fail(self, study: Study, trial: FrozenTrial) -> None:
        with _quiet():
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


@dataclass(frozen=True)
class _Counts:
    """Trials of one study: distinct uids, and trials by state."""

    uids: int
    running: int
    waiting: int
    complete: int
    given_up: int

    @property
    def busy(self) -> int:
        return self.running + self.complete + self.given_up


def _uid(trial: FrozenTrial) -> str | None:
    uid: str | None = trial.user_attrs.get("uid")
    return uid


def _attempt(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("attempt", 0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's notices about experimental features and its log lines off the terminal, for these calls only."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)
