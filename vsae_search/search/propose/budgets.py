"""How the trials of a sweep are shared out, known before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.search.propose.grid import grid_size

if TYPE_CHECKING:
    from vsae_search.space import SearchSpace

_JOINT_STARTUP = 10
GENERATION = 16
"""Trials in a generation of ``nsga2`` unless the search space says otherwise: with 50, Optuna's own default, it is a
random search for as long as most sweeps last."""


def trial_budgets(space: SearchSpace) -> dict[str, int]:
    """Equal shares of the trials for every architecture.

    Under ``search.allocation: joint`` the shares say how many trials there are in all, and not who gets them. A grid
    that has fewer points than its share ends when it is used up.

    Args:
        space: The search space.

    Returns:
        Architecture to number of trials, in the order of the search space; the first ones take what is left over.
    """
    share, rest = divmod(space.search.trials, len(space.architectures))
    budgets = {name: share + (position < rest) for position, name in enumerate(space.architectures)}
    if space.search.sampler != "grid":
        return budgets
    given = {name: len(space.search.enqueued(name)) for name in budgets}
    return {
        name: min(budget, given[name] + grid_size(space.ranges(name), budget - given[name]))
        for name, budget in budgets.items()
    }


def startup_trials(space: SearchSpace, searched: int) -> int:
    """Evenly spread trials of an architecture before a model proposes.

    Args:
        space: The search space: what it says, its sampler, its allocation and its number of trials.
        searched: Number of searched hyper-parameters of the architecture.

    Returns:
        The number that the search space gives. By default twice the number of hyper-parameters, and at least 5; the
        first generation of ``nsga2``, which is 16; and two of each architecture, at least 10 in all, for a study of
        all architectures, because what is learnt there is learnt for all.
    """
    search, count = space.search, len(space.architectures)
    if search.startup_trials is not None:
        return search.startup_trials
    if search.sampler == "nsga2":
        return -(-GENERATION // count) if search.allocation == "joint" else GENERATION
    if search.allocation == "joint":
        return max(2, -(-_JOINT_STARTUP // count))
    return max(5, 2 * searched)
