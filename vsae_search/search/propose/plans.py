"""What a study proposes: the part of each architecture in a sweep, and the studies that they are grouped into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.distributions import BaseDistribution, CategoricalDistribution

from vsae_search.search.propose.samplers import spread_trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.trial import Trial

    from vsae_search.search.propose.proposals import Proposals
    from vsae_search.search.propose.samplers import SamplerName

Stored = dict[str, Any]
"""Hyper-parameters as Optuna stores them."""
Choice = tuple[str, Stored]
"""An architecture, and its searched hyper-parameters as its study stores them."""

T = TypeVar("T")

JOINT = "joint"
ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class Plan:
    """The part of one architecture in a sweep.

    Attributes:
        proposals: Its searched and constant hyper-parameters.
        budget: Trials in all.
        startup: Evenly spread points before a model proposes.
        given: Configurations that are run first, as named values; searched hyper-parameters that one leaves out are
            taken from the evenly spread points.
        grid: Points of the grid, as named values, when the sampler is one.
    """

    proposals: Proposals
    budget: int
    startup: int
    given: tuple[Mapping[str, Any], ...] = ()
    grid: tuple[Mapping[str, Any], ...] = ()

    def decided(self, sampler: SamplerName) -> int:
        """How many trials of the budget are decided before any result: those given, and the evenly spread ones."""
        left = max(0, self.budget - len(self.given))
        return min(len(self.given), self.budget) + spread_trials(sampler, self.startup, left)

    def point(self, index: int) -> Stored:
        """A trial that is decided before any result."""
        if index < len(self.given):
            return self.proposals.point(index) | self.proposals.encode(self.given[index])
        if self.grid:
            return self.proposals.encode(self.grid[(index - len(self.given)) % len(self.grid)])
        return self.proposals.point(index - len(self.given))


class Field:
    """The trials of one study: those of one architecture, or of all.

    A study of one architecture stores hyper-parameters by their names. A joint one stores the architecture as a
    hyper-parameter too; a name that has the same distribution in every architecture that searches it is one
    hyper-parameter, and any other belongs to its architecture and is stored as ``<architecture>.<name>``.

    Args:
        name: Name of the study inside the sweep.
        plans: The architectures of the study.
        sampler: Who proposes after the start-up points.
        joint: Whether the study chooses the architecture.
    """

    def __init__(self, name: str, plans: Mapping[str, Plan], sampler: SamplerName, *, joint: bool = False) -> None:
        self.name, self.plans, self.sampler, self.joint = name, dict(plans), sampler, joint
        self.budget = sum(plan.budget for plan in plans.values())
        self.startup = sum(min(plan.startup, plan.budget) for plan in plans.values())
        decided = {architecture: plan.decided(sampler) for architecture, plan in plans.items()}
        # what is given comes first, then the architectures take turns
        rounds = sorted(
            (
                (index >= len(plans[architecture].given), index, architecture)
                for architecture, count in decided.items()
                for index in range(count)
            ),
            key=lambda one: one[:2],
        )
        self._decided = [(name, index) for _, index, name in rounds]
        self._shared = _shared(self.plans)

    @classmethod
    def all(cls, plans: Mapping[str, Plan], sampler: SamplerName, *, joint: bool) -> dict[str, Field]:
        """The studies of a sweep by name."""
        if joint:
            return {JOINT: cls(JOINT, plans, sampler, joint=True)}
        return {name: cls(name, {name: plan}, sampler) for name, plan in plans.items()}

    def decided(self, index: int) -> Choice | None:
        """The trial at a position, when no result is needed for it."""
        if index >= len(self._decided):
            return None
        name, position = self._decided[index]
        return self._choice(name, self.plans[name].point(position))

    def spread(self, index: int) -> Choice:
        """An evenly spread trial for a position, for when the model has none to offer."""
        names = list(self.plans)
        name = names[index % len(names)]
        return self._choice(name, self.plans[name].proposals.point(index // len(names)))

    def suggest(self, trial: Trial) -> Choice:
        """Have a sampler choose everything."""
        name = next(iter(self.plans))
        if self.joint:
            name = trial.suggest_categorical(ARCHITECTURE, list(self.plans))
        for key, distribution in self.distributions(name).items():
            trial._suggest(key, distribution)
        return name, dict(trial.params)

    def distributions(self, architecture: str) -> dict[str, BaseDistribution]:
        """What a trial of an architecture stores, by the name it is stored under."""
        own = self._keyed(architecture, self.plans[architecture].proposals.distributions)
        if self.joint:
            return {ARCHITECTURE: CategoricalDistribution(list(self.plans)), **own}
        return own

    def params(self, architecture: str, stored: Mapping[str, Any]) -> dict[str, Any]:
        """All named hyper-parameters of a trial."""
        proposals = self.plans[architecture].proposals
        return proposals.params({name: stored[self._key(architecture, name)] for name in proposals.dimensions})

    def _choice(self, architecture: str, point: Stored) -> Choice:
        head: Stored = {ARCHITECTURE: architecture} if self.joint else {}
        return architecture, head | self._keyed(architecture, point)

    def _keyed(self, architecture: str, values: Mapping[str, T]) -> dict[str, T]:
        return {self._key(architecture, name): value for name, value in values.items()}

    def _key(self, architecture: str, name: str) -> str:
        return name if not self.joint or name in self._shared else f"{architecture}.{name}"


def _shared(plans: Mapping[str, Plan]) -> set[str]:
    """Hyper-parameters that mean the same wherever they are searched: same distribution, same choices."""
    found: dict[str, list[Any]] = {}
    for plan in plans.values():
        for name, dimension in plan.proposals.dimensions.items():
            found.setdefault(name, []).append(dimension)
    return {name for name, dims in found.items() if all(other == dims[0] for other in dims) and name != ARCHITECTURE}
