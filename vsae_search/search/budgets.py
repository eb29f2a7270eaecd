"""How the trials of a sweep are shared out, known before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsae_search.space import SearchSpace


def trial_budgets(space: SearchSpace) -> dict[str, int]:
    """Equal shares of the trials for every architecture.

    Args:
        space: The search space.

    Returns:
        Architecture to number of trials, in the order of the search space; the first ones take what is left over.
    """
    share, rest = divmod(space.search.trials, len(space.architectures))
    return {name: share + (position < rest) for position, name in enumerate(space.architectures)}


def startup_trials(requested: int | None, searched: int) -> int:
    """Evenly spread trials of an architecture before a model proposes.

    Args:
        requested: What the search space says.
        searched: Number of searched hyper-parameters.

    Returns:
        The requested number; by default twice the number of hyper-parameters, and at least 5.
    """
    return requested if requested is not None else max(5, 2 * searched)
