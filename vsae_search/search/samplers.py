"""Which Optuna sampler proposes the next trial of a study."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

if TYPE_CHECKING:
    from collections.abc import Callable

SamplerName = Literal["auto", "gp", "tpe", "random", "qmc"]

GP_TRIALS = 300
"""``auto`` hands over from the Gaussian process to TPE after this many finished trials of an architecture: one
proposal of the process takes 0.5 s at 100 and 6 s at 1000, and Tune's loop waits for it."""
_MODEL_TRIALS = 3
"""Fewest finished trials that a model is fitted to; running start-up points must not send it back to random search."""


def spread_trials(name: SamplerName, startup: int, budget: int) -> int:
    """How many trials of an architecture are Sobol points: all, none, or the start-up ones."""
    return {"qmc": budget, "random": 0}.get(name, min(startup, budget))


def sampler_for(name: SamplerName, *, seed: int, finished: int) -> BaseSampler:
    """A fresh sampler for one proposal.

    A sampler holds no state between proposals but its random numbers. Making a new one from a seed of its own means
    that a proposal depends on the trials before it only, and not on how often the driver was started.

    Args:
        name: What the search space asks for.
        seed: Seed of this one proposal.
        finished: Trials of the study that the model can learn from.
    """
    if name == "auto":
        name = "gp" if finished <= GP_TRIALS else "tpe"
    make: dict[str, Callable[[], BaseSampler]] = {
        "gp": lambda: GPSampler(seed=seed, n_startup_trials=_MODEL_TRIALS, warn_independent_sampling=False),
        "tpe": lambda: TPESampler(seed=seed, n_startup_trials=_MODEL_TRIALS),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make.get(name, lambda: RandomSampler(seed=seed))()
