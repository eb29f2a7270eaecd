"""Which Optuna sampler proposes the next trial of a study."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

if TYPE_CHECKING:
    from collections.abc import Callable

SamplerName = Literal["auto", "gp", "tpe", "nsga2", "qmc", "random", "grid"]

GP_TRIALS = 300
"""``auto`` hands over from the Gaussian process to TPE after this many finished trials of a study: one proposal of the
process takes 0.5 s at 100 and 6 s at 1000."""
_MODEL_TRIALS = 3
"""Fewest finished trials that a model is fitted to; running start-up points must not send it back to random search."""
_UNMODELLED = ("qmc", "random", "grid")


def spread_trials(name: SamplerName, startup: int, budget: int) -> int:
    """How many trials of an architecture are evenly spread points: all, none, or the start-up ones."""
    return {"qmc": budget, "grid": budget, "random": 0}.get(name, min(startup, budget))


def learns(name: SamplerName) -> bool:
    """Whether proposals depend on earlier results, so that it matters when they are made."""
    return name not in _UNMODELLED


def sampler_for(
    name: SamplerName, *, seed: int, finished: int, population: int = 16, conditional: bool = False
) -> BaseSampler:
    """A fresh sampler for one proposal.

    A sampler holds no state between proposals but its random numbers. Making a new one from a seed of its own means
    that a proposal depends on the trials before it only, and not on how often the driver was started.

    Args:
        name: What the search space asks for.
        seed: Seed of this one proposal.
        finished: Trials of the study that the model can learn from.
        population: Trials in one generation of ``nsga2``.
        conditional: Whether the hyper-parameters depend on the architecture, as in a joint study. The Gaussian process
            models only what all trials have in common, so that ``auto`` is TPE there, and ``gp`` leaves the
            hyper-parameters of one architecture to TPE.
    """
    if name == "auto":
        name = "gp" if finished <= GP_TRIALS and not conditional else "tpe"

    def tpe() -> BaseSampler:
        return TPESampler(seed=seed, n_startup_trials=_MODEL_TRIALS)

    def gp() -> BaseSampler:
        return GPSampler(
            seed=seed,
            n_startup_trials=_MODEL_TRIALS,
            independent_sampler=tpe() if conditional else None,
            warn_independent_sampling=False,
        )

    make: dict[str, Callable[[], BaseSampler]] = {
        "gp": gp,
        "tpe": tpe,
        "nsga2": lambda: NSGAIISampler(seed=seed, population_size=max(2, population)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make.get(name, lambda: RandomSampler(seed=seed))()
