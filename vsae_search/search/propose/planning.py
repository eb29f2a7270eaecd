"""From a search space to its studies: who gets which trials, and what is decided before the first result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.budgets import startup_trials, trial_budgets
from vsae_search.search.propose.grid import grid_points
from vsae_search.search.propose.plans import Plan
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.propose.samplers import spread_trials
from vsae_search.search.propose.studies import Studies
from vsae_search.search.records import ArchitecturePlan
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.search.records import ReferenceRecord, WarmStart
    from vsae_search.space import SearchSpace


def plans_of(space: SearchSpace, warm: WarmStart | None = None) -> dict[str, Plan]:
    """The part of every architecture in a sweep.

    Args:
        space: The search space.
        warm: Configurations of an earlier sweep; they come after those that the search space names.
    """
    plans: dict[str, Plan] = {}
    for name, budget in trial_budgets(space).items():
        ranges = space.ranges(name)
        proposals = Proposals.of(ranges, derive_seed(space.seed, "spread", name))
        earlier = () if warm is None else tuple(trial.params for trial in warm.trials if trial.architecture == name)
        given = (*space.search.enqueued(name), *earlier)
        grid: tuple[dict[str, Any], ...] = ()
        if space.search.sampler == "grid":
            left = budget - len(space.search.enqueued(name))
            grid = tuple(grid_points(ranges, left, derive_seed(space.seed, "grid", name)))
        startup = startup_trials(space, len(proposals.dimensions))
        plans[name] = Plan(proposals, budget, startup, given, grid)
    return plans


def open_studies(
    space: SearchSpace, storage: str, warm: WarmStart | None = None, *, slots: int = 1, sweep_id: str = ""
) -> Studies:
    """The studies of a sweep, as they were left.

    Args:
        space: The search space.
        storage: SQLAlchemy address of the database.
        warm: Configurations of an earlier sweep.
        slots: Trials at a time.
        sweep_id: What tells this sweep from others of its name in a database that they share.
    """
    return Studies(
        "/".join(filter(None, (space.name, space.digest()[:12], sweep_id))),
        space.seed,
        plans_of(space, warm),
        sampler=space.search.sampler,
        max_retries=space.search.max_retries,
        storage=storage,
        joint=space.search.allocation == "joint",
        wanted=Objectives(1.0, 1.0, space.objectives.l0_range).wanted,
        slots=slots,
    )


def objectives_of(space: SearchSpace, reference: ReferenceRecord) -> Objectives:
    """What the studies of a sweep minimise."""
    return Objectives(reference.l0, reference.delta_ce, space.objectives.l0_range)


def architecture_plans(space: SearchSpace, spent: Mapping[str, int] | None = None) -> dict[str, ArchitecturePlan]:
    """The part of every architecture for the sweep's record.

    Args:
        space: The search space.
        spent: Trials that every architecture got; a joint study plans only their sum, so these are its plan in the
            end.
    """
    plans: dict[str, ArchitecturePlan] = {}
    for name, budget in trial_budgets(space).items():
        searched = len(Proposals.of(space.ranges(name), 0).dimensions)
        startup = spread_trials(space.search.sampler, startup_trials(space, searched), budget)
        joint = space.search.allocation == "joint" and spent is not None
        plans[name] = ArchitecturePlan(trials=spent[name] if joint and spent is not None else budget, startup=startup)
    return plans
