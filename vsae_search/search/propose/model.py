"""One proposal of a sampler, made on a copy of a study in memory.

The copy holds what the model may learn from and nothing else, so that a proposal can be made in another thread without
touching the database, and can be asked for with constraints of its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from vsae_search.search.propose.coverage import signed_distance
from vsae_search.search.propose.samplers import learns, sampler_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vsae_search.search.propose.coverage import Interval
    from vsae_search.search.propose.plans import Choice, Field

UNUSABLE = "unusable"
"""Constraint: above 0 for a trial that may not be called a good one."""
OUTSIDE = "outside"
"""Constraint: doublings from a trial's L0 to the range that it should be in."""
AIM = "aim"
"""Attribute: the gap that a trial was to land in."""
_CONSTRAINT = "constraints:"
_GENERATION = "NSGAIISampler:generation"


@dataclass(frozen=True)
class Proposal:
    """A trial that a model proposes.

    Attributes:
        choice: Architecture, and hyper-parameters as the study stores them.
        attributes: What the sampler needs to find on the trial later, such as its generation.
        aim: The gap in the frontier that it aims at, in log2 L0.
    """

    choice: Choice
    attributes: dict[str, Any] = field(default_factory=dict)
    aim: Interval | None = None


class Model:
    """Everything that one proposal depends on, taken at one moment.

    Args:
        source: The study's space and sampler.
        trials: The study's trials; those that failed are left out, and so are all when the sampler does not learn.
        pending: Proposals that are about to run.
        seed: Seed of this proposal.
        aim: The interval of log2 L0 that the proposal should land in, instead of the one the user asked for.
    """

    def __init__(
        self,
        source: Field,
        trials: Iterable[FrozenTrial],
        *,
        pending: Iterable[Choice] = (),
        seed: int,
        aim: Interval | None = None,
    ) -> None:
        self.source, self.aim = source, aim
        # copying thousands of trials for a sampler that never looks at them would slow every proposal down
        seen = trials if learns(source.sampler) else ()
        self.trials = [trial for trial in seen if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)]
        self.trials += [running_trial(source, choice) for choice in pending]
        complete = sum(trial.state == TrialState.COMPLETE for trial in self.trials)
        sampler = sampler_for(
            source.sampler, seed=seed, finished=complete, population=source.startup, conditional=source.joint
        )
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._storage, sampler=sampler, directions=["minimize", "minimize"], study_name="copy"
        )

    def propose(self) -> Proposal:
        """Fit the model and let it choose; takes from a millisecond to seconds."""
        for trial in self.trials:
            self._storage.create_new_trial(self.study._study_id, _template(trial, self.aim))
        asked = self.study.ask()
        choice = self.source.suggest(asked)
        kept = self._storage.get_trial(asked._trial_id).system_attrs
        attributes = {key: value for key, value in kept.items() if key == _GENERATION}
        return Proposal(choice, attributes, self.aim)


def running_trial(
    source: Field, choice: Choice, user_attrs: dict[str, Any] | None = None, attributes: dict[str, Any] | None = None
) -> FrozenTrial:
    """A trial that begins with all its hyper-parameters known."""
    architecture, stored = choice
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=stored,
        distributions=source.distributions(architecture),
        user_attrs=user_attrs or {},
        system_attrs=attributes or {},
    )


class _Shared(FrozenTrial):  # type: ignore[misc] # Optuna's types are not visible here
    """A trial that storages take over as it is: it is never changed, and copying hundreds of them takes long."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return copy.copy(self)


def _template(trial: FrozenTrial, aim: Interval | None) -> FrozenTrial:
    attributes = {
        key: value for key, value in trial.system_attrs.items() if key.startswith(_CONSTRAINT) or key == _GENERATION
    }
    # trials that no generation made are the first one
    attributes.setdefault(_GENERATION, 0)
    finished = trial.state == TrialState.COMPLETE
    if finished and aim is not None:
        attributes[_CONSTRAINT + OUTSIDE] = signed_distance(trial.values[0], aim)
    return _Shared(
        number=-1,
        trial_id=-1,
        state=trial.state,
        value=None,
        values=trial.values if finished else None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={},
        system_attrs=attributes,
        intermediate_values={},
    )
