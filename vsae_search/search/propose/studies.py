"""One Optuna study per architecture, or one for all, with explicit trial states that survive a crash at any point.

| what happened                                   | told to Optuna                                        |
|-------------------------------------------------|-------------------------------------------------------|
| completed                                       | COMPLETE, objectives, constraint -1                   |
| diverged (non-finite or missing objective, OOM) | COMPLETE, worst objectives, constraint +1             |
| stopped early                                   | COMPLETE, objectives of the last rung, constraint +1  |
| failure of the infrastructure                   | FAIL, and enqueued again under the same uid           |

Samplers ignore FAIL, so a diverged trial told so would be proposed again and again; told as the worst point it is
learnt from, and the constraint keeps it out of ``best_trials``. Where the user asked for a range of L0, a second
constraint says how many doublings outside of it a trial is. Only the driver's loop touches the storage.

A trial is in the study from the moment it begins, with its uid and all its hyper-parameters, and not before. With one
trial at a time a proposal is made when it is needed, after the result before it was told, so that the same seed gives
the same trials. With several, proposals are made ahead in the background, from the results told by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from vsae_search.search.assignment import Assignment
from vsae_search.search.propose.counts import Counts, architecture_of, attempt_of, uid_of
from vsae_search.search.propose.database import open_database
from vsae_search.search.propose.model import AIM, OUTSIDE, UNUSABLE, running_trial
from vsae_search.search.propose.plans import Field, Plan
from vsae_search.search.propose.proposer import Proposer
from vsae_search.search.propose.quiet import quiet
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.study import Study

    from vsae_search.search.propose.coverage import Interval
    from vsae_search.search.propose.model import Proposal
    from vsae_search.search.propose.samplers import SamplerName

__all__ = ["Plan", "Studies", "Told"]


@dataclass(frozen=True)
class Told:
    """The end of a trial as the sampler sees it.

    Attributes:
        values: Both objectives.
        usable: Whether the trial may be called a good one.
        outside: Doublings from its L0 to the range the user asked for, negative inside; None when any L0 will do.
    """

    values: tuple[float, float]
    usable: bool
    outside: float | None = None


class Studies:
    """Proposes trials and is told how they ended; the storage is the only state that matters.

    Args:
        sweep: Prefix of the study names.
        seed: Seed of the sweep.
        plans: Architecture to its plan, in the order in which ties are broken.
        sampler: Who proposes after the start-up points.
        max_retries: How often a trial is repeated after a failure of the infrastructure.
        storage: SQLAlchemy address of the database.
        joint: Whether one study chooses among all architectures.
        wanted: The range of log2 L0 along which frontiers should be even; every other proposal of a model then aims at
            the widest gap in it.
        slots: Trials at a time; with more than one, proposals are made ahead.
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
        joint: bool = False,
        wanted: Interval | None = None,
        slots: int = 1,
    ) -> None:
        self.seed, self.plans, self.sampler, self.max_retries = seed, dict(plans), sampler, max_retries
        self.fields = Field.all(plans, sampler, joint=joint and sampler not in ("grid", "qmc"))
        with quiet():
            self._storage = open_database(storage)
            self._studies = {name: self._open(f"{sweep}/{name}") for name in self.fields}
        self._known: dict[str, list[FrozenTrial]] = {}
        self._counted: dict[str, Counts] = {}
        self._given_up: set[str] = set()
        self._proposer = Proposer(self.fields, self._trials, seed=seed, sampler=sampler, wanted=wanted, slots=slots)

    def close(self) -> None:
        """Let go of the database."""
        self._proposer.close()
        self._storage.remove_session()
        self._storage.engine.dispose()

    def ask(self, *, patient: bool = True) -> Assignment | None:
        """The next trial, of the study with the fewest trials that are running or done.

        Args:
            patient: Whether to wait for a model that is still at work.

        Returns:
            A trial that is now RUNNING in its study, or None when every budget is spent or being spent, or when the
            proposal is not ready and not waited for.
        """
        counts = self._all_counts()
        name = self._proposer.next(counts)
        if name is None:
            return None
        with quiet():
            if counts[name].waiting:
                assignment = self._again(name)
            else:
                proposal = self._proposer.proposal(name, counts[name].uids, patient=patient)
                if proposal is None:
                    return None
                assignment = self._begin(name, proposal)
            self._proposer.prepare(self._all_counts)
        return assignment

    def exhausted(self) -> bool:
        """Whether every budget is spent: nothing is running and nothing waits to be repeated."""
        open_ = self._all_counts()
        if any(counts.uids < self.fields[name].budget or counts.waiting for name, counts in open_.items()):
            return False
        return not any(trial.state == TrialState.RUNNING for name in self.fields for trial in self._trials(name))

    def give_up(self, architecture: str) -> None:
        """Begin no more trials of an architecture; a joint study goes on while it has another one."""
        self._given_up.add(architecture)

    def take_up(self, architecture: str) -> None:
        """Spend the budget of an architecture after all."""
        self._given_up.discard(architecture)

    def spent(self) -> dict[str, int]:
        """Trials that every architecture got, whatever became of them."""
        uids = {uid_of(trial) for study in self._studies.values() for trial in study.get_trials(deepcopy=False)}
        names = [architecture_of(uid) for uid in uids if uid is not None]
        return {name: names.count(name) for name in self.plans}

    def tell(self, uid: str, told: Told) -> bool:
        """Record the end of a trial; telling it again changes nothing.

        Args:
            uid: A trial that was asked for.
            told: Its objectives and whether it counts as a good one.

        Returns:
            Whether this call ended the trial.
        """
        with quiet():
            is_news = self._end(uid, told)
            if is_news:
                self._proposer.prepare(self._all_counts)
        return is_news

    def retries_left(self, uid: str) -> bool:
        """Whether a failure of the attempt that is running would be repeated."""
        _, running = self._running(uid)
        return running is not None and attempt_of(running) < self.max_retries

    def fail(self, uid: str, *, free: bool = False) -> bool:
        """Record that the infrastructure lost a trial, and enqueue it again while attempts are left.

        Args:
            uid: A trial that was asked for.
            free: Whether that costs no attempt.

        Returns:
            Whether this call ended an attempt; False when the trial was not running.
        """
        name, running = self._running(uid)
        if running is None:
            return False
        attempt = attempt_of(running) + (0 if free else 1)
        # enqueued first: a crash in between leaves both, which reconcile() puts right
        if attempt <= self.max_retries:
            self._enqueue(name, running, attempt)
        self._fail(name, running)
        return True

    def reconcile(self, ended: Mapping[str, Told | None]) -> list[str]:
        """Put the studies right after the driver died: no trial may stay RUNNING without a worker.

        Args:
            ended: Trials whose record is on disk, by uid: how they ended, or None for those given up on.

        Returns:
            The uids that were running with nothing on disk; they are enqueued again and lose no attempt.
        """
        orphans = []
        for name in self.fields:
            trials = self._trials(name)
            waiting = {uid_of(trial) for trial in trials if trial.state == TrialState.WAITING}
            for trial in trials:
                if trial.state != TrialState.RUNNING:
                    continue
                uid = uid_of(trial)
                told = ended.get(uid) if uid is not None else None
                if uid is not None and told is not None:
                    with quiet():
                        self._end(uid, told)
                    continue
                if uid is not None and uid not in ended:
                    orphans.append(uid)
                    if uid not in waiting:
                        self._enqueue(name, trial, attempt_of(trial))
                self._fail(name, trial)
        return orphans

    def _open(self, name: str) -> Study:
        return optuna.create_study(
            study_name=name,
            storage=self._storage,
            sampler=RandomSampler(),  # never asked: proposals come from copies
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )

    # -- how trials begin ----------------------------------------------------------------------------------------

    def _begin(self, name: str, proposal: Proposal) -> Assignment:
        """Put a proposed trial into its study, in one transaction."""
        source = self.fields[name]
        architecture, _ = proposal.choice
        uid = f"{architecture}-{self._number(name, architecture):04d}"
        attrs = {"uid": uid, "attempt": 0} | ({AIM: proposal.aim} if proposal.aim is not None else {})
        trial = running_trial(source, proposal.choice, attrs, proposal.attributes)
        self._studies[name].add_trial(trial)
        self._changed(name)
        return self._assignment(source, trial)

    def _again(self, name: str) -> Assignment:
        """Begin a trial that waits to be repeated."""
        source = self.fields[name]
        first = next(trial for trial in self._trials(name) if trial.state == TrialState.WAITING)
        number = self._studies[name].ask(source.distributions(architecture_of(first.user_attrs["uid"]))).number
        self._changed(name)
        return self._assignment(source, self._trials(name)[number])

    def _assignment(self, source: Field, trial: FrozenTrial) -> Assignment:
        uid = trial.user_attrs["uid"]
        architecture = architecture_of(uid)
        return Assignment(
            uid=uid,
            architecture=architecture,
            number=int(uid.rsplit("-", 1)[1]),
            params=source.params(architecture, trial.params),
            seed=derive_seed(self.seed, "train", uid),
            attempt=attempt_of(trial),
        )

    def _number(self, name: str, architecture: str) -> int:
        """Position of the next trial among those of its architecture."""
        uids = {uid_of(trial) for trial in self._trials(name)}
        return sum(uid is not None and architecture_of(uid) == architecture for uid in uids)

    # -- the storage ---------------------------------------------------------------------------------------------

    def _all_counts(self) -> dict[str, Counts]:
        """Counts of every study that has not been given up."""
        open_ = [name for name, source in self.fields.items() if not self._given_up.issuperset(source.plans)]
        for name in open_:
            if name not in self._counted:
                self._counted[name] = Counts.of(self._trials(name))
        return {name: self._counted[name] for name in open_}

    def _trials(self, name: str) -> list[FrozenTrial]:
        """The trials of a study; read again only when this object has changed them, as nobody else does."""
        if name not in self._known:
            self._known[name] = self._studies[name].get_trials(deepcopy=False)
        return self._known[name]

    def _changed(self, name: str) -> None:
        self._known.pop(name, None)
        self._counted.pop(name, None)

    def _end(self, uid: str, told: Told) -> bool:
        name, running = self._running(uid)
        if running is None:
            return False
        study = self._studies[name]
        constraints = {UNUSABLE: -1.0 if told.usable else 1.0}
        if told.outside is not None:
            constraints[OUTSIDE] = told.outside
        trial = Trial(study, running._trial_id)
        for key, value in constraints.items():
            if key not in running.constraints:  # a crash can come between a constraint and the end
                trial.set_constraint(key, value)
        study.tell(running.number, list(told.values), skip_if_finished=True)
        self._changed(name)
        return True

    def _running(self, uid: str) -> tuple[str, FrozenTrial | None]:
        architecture = architecture_of(uid)
        name = next(name for name, source in self.fields.items() if architecture in source.plans)
        running = (trial for trial in self._trials(name) if trial.state == TrialState.RUNNING)
        return name, next((trial for trial in running if uid_of(trial) == uid), None)

    def _enqueue(self, name: str, trial: FrozenTrial, attempt: int) -> None:
        # an enqueued trial that died while its parameters were being set still knows all of them
        params = trial.system_attrs.get("fixed_params", trial.params)
        attrs = {key: value for key, value in trial.user_attrs.items() if key == AIM}
        self._studies[name].enqueue_trial(params, user_attrs={**attrs, "uid": uid_of(trial), "attempt": attempt})
        self._changed(name)

    def _fail(self, name: str, trial: FrozenTrial) -> None:
        with quiet():
            self._studies[name].tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._changed(name)
