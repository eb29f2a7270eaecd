"""What a confirmation is going to train, decided from the records alone."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsae_search.errors import UserInputError
from vsae_search.search.assignment import Assignment
from vsae_search.search.confirm.records import CONFIRM_FOLDER, Configuration, load_confirm, replicate_uid
from vsae_search.search.confirm.selection import choose
from vsae_search.search.records import load_sweep
from vsae_search.search.seeds import derive_seed
from vsae_search.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from vsae_search.search.confirm.records import ConfirmRecord
    from vsae_search.search.records import SweepRecord, TrialRecord

FEWEST_SEEDS = 2
"""One seed has no spread."""
TESTABLE_SEEDS = 6
"""The smallest number of seeds with which a paired test of two architectures can reach p < 0.05 (two-sided)."""


@dataclass(frozen=True)
class ConfirmRequest:
    """What is asked for.

    Attributes:
        seeds: Replicates of every configuration, those that are there included.
        margin: Largest rank that is confirmed; 0 is the frontier alone.
        architectures: Which architectures; empty for all.
        max_configurations: Most configurations of one architecture; None for the default.
    """

    seeds: int = 6
    margin: int = 1
    architectures: tuple[str, ...] = ()
    max_configurations: int | None = None


@dataclass(frozen=True)
class ConfirmPlan:
    """What is going to be trained.

    Attributes:
        directory: The sweep directory.
        request: What was asked for.
        sweep: The sweep.
        space: Its search space.
        trials: Its trials.
        earlier: The confirmation that this one goes on with.
        replicates: The replicates of it that count: all that completed or diverged.
        seeds: Seed of each replicate.
        configurations: Everything chosen, earlier choices included, by architecture and rising L0.
        pending: What is still to be trained, all configurations with one seed before the next seed.
        empty: Architectures without a completed trial.
        estimated_s: Seconds that the pending trainings took in the search, over as many at once.
    """

    directory: Path
    request: ConfirmRequest
    sweep: SweepRecord
    space: SearchSpace
    trials: tuple[TrialRecord, ...]
    earlier: ConfirmRecord | None
    replicates: tuple[TrialRecord, ...]
    seeds: tuple[int, ...]
    configurations: tuple[Configuration, ...]
    pending: tuple[Assignment, ...]
    empty: tuple[str, ...]
    estimated_s: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a careful reader would want to know before the trainings start."""
        found = []
        if self.sweep.status != "completed":
            found.append(f"the sweep is not finished: the frontier of its {len(self.trials)} trials is confirmed")
        if self.request.seeds < TESTABLE_SEEDS:
            found.append(
                f"{self.request.seeds} seeds: a paired test needs {TESTABLE_SEEDS} to be able to reach p < 0.05"
            )
        found += [f"{name} has no completed trial, so there is nothing to confirm" for name in self.empty]
        return tuple(found)


def plan_confirm(directory: Path, request: ConfirmRequest) -> ConfirmPlan:
    """Decide what is to be trained; reads the records and changes nothing.

    Args:
        directory: The sweep directory.
        request: What is asked for.

    Raises:
        UserInputError: Too few seeds, an architecture that is not in the sweep, or no completed trial.
        CorruptFile: A record cannot be read.
    """
    _check(request)
    sweep, trials = load_sweep(directory)
    wanted = _wanted(request, sweep)
    earlier, replicates = load_confirm(directory) or (None, [])
    if earlier is not None and earlier.digest != sweep.digest:
        raise UserInputError(
            f"{directory / CONFIRM_FOLDER} confirms a sweep of another search space", "move that folder elsewhere"
        )
    kept = tuple(replicate for replicate in replicates if replicate.state != "failed")
    chosen = {name: _chosen(name, trials, request, sweep, earlier) for name in wanted}
    empty = tuple(name for name in wanted if not chosen[name])
    if len(empty) == len(wanted) or set(empty) & set(request.architectures):
        raise UserInputError(
            f"the sweep {sweep.name} has no completed trial of {', '.join(empty)}, so there is nothing to confirm",
            "its report says why; run it again under another name once that is put right",
        )
    seeds = draw_seeds(sweep.seed, request.seeds, earlier.seeds if earlier else (), {trial.seed for trial in trials})
    others = [c for c in (earlier.configurations if earlier else ()) if c.architecture not in chosen]
    to_train = [configuration for name in wanted for configuration in chosen[name]]
    pending = _pending(to_train, trials, seeds, _counts(wanted, kept, request), {replicate.uid for replicate in kept})
    return ConfirmPlan(
        directory=directory,
        request=request,
        sweep=sweep,
        space=SearchSpace.model_validate(sweep.space),
        trials=tuple(trials),
        earlier=earlier,
        replicates=kept,
        seeds=seeds,
        configurations=_ordered([*to_train, *others], sweep, trials),
        pending=pending,
        empty=empty,
        estimated_s=_estimate(pending, trials, sweep),
    )


def draw_seeds(sweep_seed: int, count: int, earlier: Sequence[int], taken: Collection[int]) -> tuple[int, ...]:
    """Seeds of the replicates: those drawn earlier, and as many more as are missing.

    A seed depends on the seed of the sweep and the number of the replicate, so that every architecture sees the same
    data in the same order in one replicate.

    Args:
        sweep_seed: Seed of the sweep.
        count: How many are needed at least.
        earlier: Seeds of replicates 0, 1, ... that are there already; they are kept.
        taken: Seeds of the search's trials; none of them is drawn.
    """
    seeds = list(earlier)
    while len(seeds) < count:
        draw = 0
        while (seed := derive_seed(sweep_seed, "confirm", len(seeds), draw)) in taken or seed in seeds:
            draw += 1
        seeds.append(seed)
    return tuple(seeds)


def _check(request: ConfirmRequest) -> None:
    if request.seeds < FEWEST_SEEDS:
        raise UserInputError(
            f"{request.seeds} seed{'' if request.seeds == 1 else 's'} cannot show a spread",
            f"give at least {FEWEST_SEEDS}; with {TESTABLE_SEEDS} two architectures can be told apart by a test",
        )
    if request.margin < 0:
        raise UserInputError(f"the margin is a rank, and {request.margin} is none", "0 confirms the frontier alone")
    if request.max_configurations is not None and request.max_configurations < 1:
        raise UserInputError("no configuration would be confirmed", "let max_configurations be at least 1")


def _wanted(request: ConfirmRequest, sweep: SweepRecord) -> list[str]:
    known = list(sweep.architectures)
    for name in request.architectures:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UserInputError(f"the sweep {sweep.name} has no architecture {name!r}", hint)
    return [name for name in known if not request.architectures or name in request.architectures]


def _chosen(
    name: str,
    trials: Sequence[TrialRecord],
    request: ConfirmRequest,
    sweep: SweepRecord,
    earlier: ConfirmRecord | None,
) -> list[Configuration]:
    """What was chosen earlier for an architecture, and what the sweep as it is adds to that."""
    there = {trial.uid for trial in trials}
    before = [c for c in (earlier.configurations if earlier else ()) if c.architecture == name and c.uid in there]
    uids = {configuration.uid for configuration in before}
    fresh = choose(
        trials,
        name,
        margin=request.margin,
        limit=request.max_configurations,
        earlier=uids,
        reference=sweep.reference,
    )
    return [*before, *(configuration for configuration in fresh if configuration.uid not in uids)]


def _counts(wanted: Sequence[str], kept: Sequence[TrialRecord], request: ConfirmRequest) -> dict[str, int]:
    """Replicates of every architecture: what is asked for, and never fewer than it has, so that none is lopsided."""
    return {
        name: max([request.seeds, *(replicate.number + 1 for replicate in kept if replicate.architecture == name)])
        for name in wanted
    }


def _pending(
    configurations: Sequence[Configuration],
    trials: Sequence[TrialRecord],
    seeds: Sequence[int],
    counts: Mapping[str, int],
    done: Collection[str],
) -> tuple[Assignment, ...]:
    params = {trial.uid: trial.params for trial in trials}
    return tuple(
        Assignment(
            uid=uid,
            architecture=configuration.architecture,
            number=replicate,
            params=params[configuration.uid],
            seed=seed,
            attempt=0,
        )
        for replicate, seed in enumerate(seeds)
        for configuration in configurations
        if replicate < counts[configuration.architecture]
        if (uid := replicate_uid(configuration.uid, replicate)) not in done
    )


def _ordered(
    configurations: Sequence[Configuration], sweep: SweepRecord, trials: Sequence[TrialRecord]
) -> tuple[Configuration, ...]:
    l0 = {trial.uid: trial.metrics.get("l0", 0.0) for trial in trials}
    names = list(sweep.architectures)
    return tuple(sorted(configurations, key=lambda c: (names.index(c.architecture), l0[c.uid], c.uid)))


def _estimate(pending: Sequence[Assignment], trials: Sequence[TrialRecord], sweep: SweepRecord) -> float:
    spent = {trial.uid: trial.train_s + trial.evaluate_s for trial in trials}
    total = sum(spent[assignment.uid.rsplit("-r", 1)[0]] for assignment in pending)
    return total / max(1, int(sweep.resources.get("max_concurrent", 1)))
