"""Configurations of an earlier sweep's frontier, to begin another one with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.saes import config_classes
from vsae_search.search.propose.budgets import trial_budgets
from vsae_search.search.propose.coverage import frontier_order, log2_l0, signed_distance
from vsae_search.search.records import LeftOut, SweepRecord, TrialRecord, WarmStart, WarmTrial, load_sweep
from vsae_search.space.configurations import misfit, settled

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.space import SearchSpace


def warm_start(space: SearchSpace, earlier: SweepRecord | None, source: Path | None) -> WarmStart | None:
    """What a sweep begins with; decided when it is started for the first time, and kept by its record.

    Args:
        space: The search space.
        earlier: The record of the sweep's earlier sessions.
        source: Directory of the sweep whose frontiers are taken over; None for none, or for what was decided before.

    Raises:
        UserInputError: The source holds no sweep, or the sweep has begun with something else.
    """
    if earlier is not None:
        if source is not None and (earlier.warm_start is None or earlier.warm_start.directory != str(source.resolve())):
            begun = "nothing" if earlier.warm_start is None else earlier.warm_start.directory
            raise UserInputError(
                f"the sweep {space.name} was started from {begun}, and cannot be started again from {source}",
                "leave out --from to go on with it, or give the new sweep another name with --name",
            )
        return earlier.warm_start
    return None if source is None else chosen(space, source)


def chosen(space: SearchSpace, source: Path) -> WarmStart:
    """The frontier configurations of a sweep that fit a search space.

    Of every architecture at most half of the trials are spent on them, evenly taken along its frontier, so that there
    is something left to search with.

    Args:
        space: The search space to begin.
        source: Directory of the sweep to begin with.
    """
    record, trials = load_sweep(source)
    taken: list[WarmTrial] = []
    left_out: list[LeftOut] = []
    for name, budget in trial_budgets(space).items():
        fitting: list[WarmTrial] = []
        for trial in _frontier(trials, name, space.objectives.l0_range):
            params, reason = _fitted(space, trial)
            if reason is None and any(params == other.params for other in fitting):
                reason = "the same configuration is there already"
            if reason is None:
                fitting.append(WarmTrial(uid=trial.uid, architecture=name, params=params))
            else:
                left_out.append(LeftOut(uid=trial.uid, reason=reason))
        room = max(0, -(-budget // 2) - len(space.search.enqueued(name)))
        kept = _spread(fitting, room)
        taken += kept
        reason = f"beyond half of the {budget} trials of {name}"
        left_out += [LeftOut(uid=one.uid, reason=reason) for one in fitting if one not in kept]
    others = sorted({trial.architecture for trial in trials} - set(space.architectures))
    left_out += [LeftOut(uid=name, reason="the architecture is not in this search space") for name in others]
    return WarmStart(source=record.name, directory=str(source.resolve()), trials=tuple(taken), left_out=tuple(left_out))


def _frontier(trials: list[TrialRecord], name: str, l0_range: tuple[float, float] | None) -> list[TrialRecord]:
    """The completed trials of an architecture that no other one beats, by rising L0."""
    own = [trial for trial in trials if trial.architecture == name and trial.state == "completed"]
    own = [t for t in own if all(math.isfinite(t.metrics.get(key, math.nan)) for key in ("l0", "delta_ce"))]
    if l0_range is not None:
        wanted = (math.log2(l0_range[0]), math.log2(l0_range[1]))
        own = [trial for trial in own if signed_distance(log2_l0(trial.metrics["l0"]), wanted) <= 0]
    return [own[i] for i in frontier_order([(trial.metrics["l0"], trial.metrics["delta_ce"]) for trial in own])]


def _fitted(space: SearchSpace, trial: TrialRecord) -> tuple[dict[str, Any], str | None]:
    """A trial's hyper-parameters as this search space names them, and why it cannot run them."""
    ranges = space.ranges(trial.architecture)
    fields = config_classes()[trial.architecture].model_fields
    params: dict[str, Any] = {}
    for name in ranges:
        value = trial.params[name] if name in trial.params else fields[name].default
        if (reason := misfit(ranges, name, value)) is not None:
            return {}, reason
        params[name] = settled(ranges[name], value)
    for name, value in trial.params.items():
        if name not in ranges and (name not in fields or fields[name].default != value):
            return {}, misfit(ranges, name, value)
    return params, None


def _spread(fitting: list[WarmTrial], room: int) -> list[WarmTrial]:
    """Evenly taken along the frontier, its ends first."""
    if len(fitting) <= room:
        return fitting
    if room <= 1:
        return fitting[len(fitting) // 2 :][:room]
    return [fitting[round(i)] for i in np.linspace(0, len(fitting) - 1, room)]
