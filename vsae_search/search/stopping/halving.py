"""Who stops at a rung: successive halving on two objectives, within one architecture. Numbers in, a decision out.

A trial that reaches a rung is compared with every result that its architecture has at that rung, whenever it came and
however its trial ended (asynchronous successive halving, Li et al. 2020, in the form that stops trials instead of
pausing them). The results are ordered by non-dominated front (Deb et al. 2002), and within a front by how far a result
is from its neighbours in log2 L0, so that the ends and the gaps of a frontier are filled first. A trial outside the
best ``1 / eta`` of that order stops.

Architectures are never compared with each other: that would spend the budget on the strongest one, and a sweep has to
say how good every one of them is.

Shapes: N results at one rung, 2 columns (log2 L0, log2 delta-CE), both minimised.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from vsae_search.search.objectives import usable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vsae_search.search.objectives import Objectives
    from vsae_search.search.records import TrialRecord
    from vsae_search.space import SearchSpace

Point = tuple[float, float]
_GRACE_WARMUPS = 2.0
"""A rung decides from this many times the penalty's warm-up on: before, L0 says little about what it will be."""
_MIN_RESULTS = 2.0
"""Times eta: results at a rung, the newcomer's included, before a trial may be stopped there."""
PAYS: dict[str, frozenset[str]] = {"random": frozenset({"topk"})}
"""Sampler to the architectures that gained hypervolume on every search space and budget that was measured, see
benchmarks/results/stopping.md: there, ``search.early_stopping: auto`` stops trials."""


def stopped_early(space: SearchSpace) -> tuple[str, ...]:
    """The architectures of a sweep whose trials are stopped early: all, none, or with ``auto`` those where it pays."""
    search = space.search
    if search.early_stopping == "auto":
        return tuple(name for name in space.architectures if name in PAYS.get(search.sampler, ()))
    return tuple(space.architectures) if search.early_stopping == "on" else ()


@dataclass(frozen=True)
class Rule:
    """When a trial stops.

    Attributes:
        eta: The best ``1 / eta`` of the results at a rung go on.
        grace: Part of the training before which nothing stops.
        min_results: Results at a rung, the newcomer's included, before a trial may be stopped there.
        spare_front: Whether a trial that no other result at its rung dominates always goes on.
    """

    eta: float = 2.0
    grace: float = 0.0
    min_results: int = 4
    spare_front: bool = True

    @classmethod
    def of(cls, space: SearchSpace) -> Rule:
        """The rule of a sweep: it waits for the warm-up of the penalty and for enough results to compare with."""
        eta, warm_up = space.search.eta, space.training.penalty_warmup_fraction
        grace = max(space.search.grace_fraction, min(1.0, _GRACE_WARMUPS * warm_up))
        return cls(eta=eta, grace=grace, min_results=math.ceil(_MIN_RESULTS * eta))

    def decides_at(self, fraction: float) -> bool:
        """Whether a trial may be stopped when it has used up this part of its training."""
        return self.grace <= fraction < 1.0

    def keeps(self, newcomer: Point, mates: Sequence[Point]) -> bool:
        """Whether a trial goes on.

        Args:
            newcomer: Its objectives.
            mates: Those of the other results at the rung, in the order in which they came.
        """
        points = [*mates, newcomer]
        if len(points) < self.min_results:
            return True
        ranks = front_ranks(points)
        if self.spare_front and ranks[-1] == 0:
            return True
        crowding = crowding_distances(points, ranks)
        # among equals, the one that came first is the better one
        order = sorted(range(len(points)), key=lambda index: (ranks[index], -crowding[index], index))
        return order.index(len(mates)) < math.ceil(len(points) / self.eta)


class Halving:
    """The results at every rung of every architecture, and what follows from them for a newcomer.

    Args:
        rule: When a trial stops.
        objectives: From metrics to what is minimised.
    """

    def __init__(self, rule: Rule, objectives: Objectives) -> None:
        self.rule, self.objectives = rule, objectives
        self._rungs: dict[tuple[str, int], dict[str, Point]] = defaultdict(dict)

    def remember(self, records: Iterable[TrialRecord]) -> None:
        """Take over the results of other trials, finished or not; one that is known already is replaced."""
        for record in records:
            self._enter(record)

    def stops(self, record: TrialRecord) -> bool:
        """Enter a trial's results and decide about the last of them.

        Args:
            record: The trial so far. Its earlier rungs are entered too: after a restart they may not be known.

        Returns:
            Whether the trial is to be stopped.
        """
        self._enter(record)
        if not record.rungs or not self.rule.decides_at(record.rungs[-1].fraction):
            return False
        results = self._rungs[record.architecture, record.rungs[-1].index]
        newcomer = results.get(record.uid)
        if newcomer is None:  # not finite: the trial is about to diverge by itself
            return False
        mates = [point for uid, point in results.items() if uid != record.uid]
        return not self.rule.keeps(newcomer, mates)

    def results(self, architecture: str, rung: int) -> dict[str, Point]:
        """The objectives at a rung by uid."""
        return dict(self._rungs[architecture, rung])

    def _enter(self, record: TrialRecord) -> None:
        for rung in record.rungs:
            if usable(rung.metrics):
                values = self.objectives.values(rung.metrics["l0"], rung.metrics["delta_ce"])
                self._rungs[record.architecture, rung.index][record.uid] = values


def front_ranks(points: Sequence[Point]) -> list[int]:
    """Non-dominated front of every point, from 0: front 0 is dominated by none, front 1 by points of front 0 only, ...

    Equal points do not dominate each other, so they share a front.

    Args:
        points: Finite pairs, both numbers minimised.
    """
    ranks = [0] * len(points)
    last: list[Point] = []  # the rightmost, hence lowest, point of each front so far
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        point = points[index]
        rank = next((r for r, other in enumerate(last) if other == point or other[1] > point[1]), len(last))
        last[rank : rank + 1] = [point]
        ranks[index] = rank
    return ranks


def crowding_distances(points: Sequence[Point], ranks: Sequence[int]) -> list[float]:
    """How far apart the two neighbours of a point are in the first column, within its front; infinite at its ends.

    Of equal points the first one counts, and the others have no distance at all: they add nothing.

    Args:
        points: Pairs; only the first number matters.
        ranks: Front of every point.
    """
    distances = [math.inf] * len(points)
    fronts: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], i)):
        front = fronts[ranks[index]]
        if front and points[front[-1]] == points[index]:
            distances[index] = 0.0
        else:
            front.append(index)
    for front in fronts.values():
        for (left, middle), (_, right) in pairwise(pairwise(front)):
            distances[middle] = points[right][0] - points[left][0]
    return distances
