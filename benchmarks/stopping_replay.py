"""Random search replayed from a table of trials, with and without early stopping. Used by ``stopping.py``."""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stopping_trials import BUILD, RUNGS

from vsae_search.frontier import hypervolume, nondominated
from vsae_search.search.objectives import Objectives

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.search.stopping.halving import Rule


@dataclass(frozen=True)
class Curve:
    """One trial of the table: its numbers at every rung; fewer of them when it diverged."""

    uid: str
    params: dict[str, Any]
    raw: tuple[tuple[float, float], ...]  # (L0, delta-CE)
    told: tuple[tuple[float, float], ...]  # what the rule sees


@dataclass
class Outcome:
    """What one replay of one architecture came to.

    Attributes:
        hypervolume: Share of the reference box that the completed trials dominate.
        completed: Trials trained to the end within the budget.
        stopped: Trials stopped.
        false_stops: Of these, how many would have been on the frontier of everything that was started.
    """

    hypervolume: float
    completed: int
    stopped: int
    false_stops: int


@dataclass
class Table:
    """Every trial of a search space, by architecture."""

    reference: tuple[float, float]
    curves: dict[str, list[Curve]]

    @classmethod
    def read(cls, name: str) -> Table:
        """Read what ``collect`` wrote."""
        corner = json.loads((BUILD / f"{name}.reference.json").read_text())
        objectives = Objectives(corner["l0"], corner["delta_ce"])
        curves: dict[str, list[Curve]] = {}
        for line in (BUILD / f"{name}.jsonl").read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            raw = tuple((l0, delta) for _, l0, delta in entry["rungs"])
            told = tuple(objectives.values(*point) for point in raw)
            curves.setdefault(entry["architecture"], []).append(Curve(entry["uid"], entry["params"], raw, told))
        return cls((corner["l0"], corner["delta_ce"]), curves)

    def best(self, architecture: str) -> float:
        """Hypervolume of every trial of the table together."""
        return _volume([c.raw[-1] for c in self.curves[architecture] if len(c.raw) == len(RUNGS)], self.reference)


def replay(
    curves: Sequence[Curve],
    rule: Rule | None,
    *,
    rungs: tuple[float, ...],
    budget: float,
    workers: int,
    reference: tuple[float, float],
) -> Outcome:
    """Run trials in this order on some workers until the budget is spent.

    Args:
        curves: The trials in the order in which they are proposed.
        rule: When a trial stops; None trains every trial to the end.
        rungs: The rungs of the sweep, among those of the table.
        budget: Training in units of one whole trial.
        workers: Trials at the same time.
        reference: Corner of the hypervolume.
    """
    queue, seen = iter(curves), {rung: [] for rung in rungs}  # type: dict[float, list[tuple[float, float]]]
    events: list[tuple[float, int, Curve, int]] = []  # time, tie-break, trial, index into rungs
    started: list[Curve] = []
    ended: list[Curve] = []
    stopped: list[Curve] = []

    def start(now: float) -> None:
        curve = next(queue, None)
        if curve is not None:
            started.append(curve)
            heapq.heappush(events, (now + rungs[0], len(started), curve, 0))

    for _ in range(workers):
        start(0.0)
    while events:
        now, order, curve, index = heapq.heappop(events)
        if now > budget / workers + 1e-9:
            break
        position = RUNGS.index(rungs[index])
        if position >= len(curve.raw):  # it diverged before this rung
            start(now)
        elif rungs[index] == 1.0:
            ended.append(curve)
            start(now)
        else:
            mates = seen[rungs[index]]
            stops = rule is not None and rule.decides_at(rungs[index]) and not rule.keeps(curve.told[position], mates)
            mates.append(curve.told[position])
            if stops:
                stopped.append(curve)
                start(now)
            else:
                step = rungs[index + 1] - rungs[index]
                heapq.heappush(events, (now + step, order, curve, index + 1))
    return outcome_of(ended, stopped, reference)


def outcome_of(ended: Sequence[Curve], stopped: Sequence[Curve], reference: tuple[float, float]) -> Outcome:
    """What came of trials of which some were stopped; the table knows how these would have ended."""
    finals = [curve.raw[-1] for curve in ended if len(curve.raw) == len(RUNGS)]
    missed = [curve.raw[-1] for curve in stopped if len(curve.raw) == len(RUNGS)]
    front = nondominated([*finals, *missed]) if missed else np.zeros(0)
    return Outcome(_volume(finals, reference), len(ended), len(stopped), int(sum(front[len(finals) :])))


def _volume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    return hypervolume(points, reference).normalised


def compare(
    table: Table, rule: Rule | None, *, rungs: tuple[float, ...], budget: float, workers: int, seeds: int
) -> np.ndarray[Any, Any]:
    """Replays of every architecture: array [architecture, seed, (share of the best, completed, stopped, false)]."""
    rows = []
    for name, curves in table.curves.items():
        best = table.best(name)
        row = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(curves))
            outcome = replay(
                [curves[i] for i in order],
                rule,
                rungs=rungs,
                budget=budget,
                workers=workers,
                reference=table.reference,
            )
            row.append((outcome.hypervolume / best, outcome.completed, outcome.stopped, outcome.false_stops))
        rows.append(row)
    return np.array(rows, dtype=np.float64)
