"""Searches with samplers that learn, over a pool of real trials, with and without early stopping.

A sampler proposes; the nearest trial of the table that has not been used is the one that is run, and its own
hyper-parameters are what the sampler is told. So every number is that of a trained trial, and thousands of searches
cost no training. Used by ``stopping.py``.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial
from stopping_replay import Outcome, outcome_of
from stopping_trials import RUNGS

from vsae_search.search.propose.samplers import sampler_for
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from stopping_replay import Curve

    from vsae_search.search.propose.proposals import Proposals
    from vsae_search.search.stopping.halving import Rule


def pool_search(
    curves: Sequence[Curve],
    proposals: Proposals,
    sampler: Any,
    rule: Rule | None,
    *,
    rungs: tuple[float, ...],
    marks: tuple[float, ...],
    reference: tuple[float, float],
    seed: int,
) -> dict[float, Outcome]:
    """One search of one architecture, one trial at a time, as a sweep does it: Sobol points, then the sampler.

    Args:
        curves: The pool.
        proposals: What is searched.
        sampler: Name of the sampler.
        rule: When a trial stops; None trains every trial to the end.
        rungs: The rungs of the sweep, among those of the table.
        marks: Training, in units of one whole trial, at which to look; the last one ends the search.
        reference: Corner of the hypervolume.
        seed: Seed of the search.

    Returns:
        What the search came to at every mark.
    """
    stored = [_stored(proposals, curve.params) for curve in curves]
    units_NP = np.array([[_unit(proposals, key, one[key]) for key in proposals.dimensions] for one in stored])
    study = _study()
    left, seen = set(range(len(curves))), {rung: [] for rung in rungs}  # type: Any
    ended, stopped, spent, found = [], [], 0.0, dict[float, Outcome]()
    startup = max(5, 2 * len(proposals.dimensions))
    for number in range(len(curves)):
        if number < startup:
            wanted = proposals.point(number)
        else:
            study.sampler = sampler_for(sampler, seed=derive_seed(seed, sampler, number), finished=number)
            asked = study.ask(proposals.distributions)
            wanted = asked.params
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        unit_P = np.array([_unit(proposals, key, wanted[key]) for key in proposals.dimensions])
        index = min(left, key=lambda i: (float(np.abs(units_NP[i] - unit_P).sum()), i))
        left.discard(index)
        fraction = _stop(curves[index], rule, rungs, seen)
        spent += fraction
        found |= {mark: outcome_of(ended, stopped, reference) for mark in marks if spent > mark and mark not in found}
        if len(found) == len(marks):
            break
        curve = curves[index]
        whole = fraction == 1.0 and len(curve.raw) == len(RUNGS)
        (ended if fraction == 1.0 else stopped).append(curve)
        position = min(RUNGS.index(fraction), len(curve.told) - 1)
        _add(study, proposals.distributions, stored[index], curve.told[position] if curve.told else None, whole)
    return {mark: outcome_of(ended, stopped, reference) for mark in marks} | found


def _stop(curve: Curve, rule: Rule | None, rungs: tuple[float, ...], seen: dict[float, list[Any]]) -> float:
    """Part of its training that a trial gets."""
    for rung in rungs[:-1]:
        position = RUNGS.index(rung)
        if position >= len(curve.told):
            return rung
        keeps = rule is None or not rule.decides_at(rung) or rule.keeps(curve.told[position], seen[rung])
        seen[rung].append(curve.told[position])
        if not keeps:
            return rung
    return 1.0


def _study() -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    return optuna.create_study(directions=["minimize", "minimize"])


def _add(study: Any, distributions: Any, params: dict[str, Any], values: Any, usable: bool) -> None:
    trial = create_trial(params=params, distributions=distributions, values=list(values or (0.0, 0.0)))
    trial.set_constraint("unusable", -1.0 if usable else 1.0)
    study.add_trial(trial)


def _stored(proposals: Proposals, params: dict[str, Any]) -> dict[str, Any]:
    return {key: dimension.encode(params[key]) for key, dimension in proposals.dimensions.items()}


def _unit(proposals: Proposals, key: str, value: Any) -> float:
    """Where a value lies in its range, 0 to 1, on the range's own scale."""
    found: BaseDistribution = proposals.dimensions[key].distribution
    if isinstance(found, CategoricalDistribution):
        return found.choices.index(value) / max(1, len(found.choices) - 1)
    low, high = float(found.low), float(found.high)
    if found.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (float(value) - low) / max(high - low, 1e-12)
