"""Who is next, and with which hyper-parameters: decided beforehand, made by a model, or made by a model in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from vsae_search.search.propose.ahead import Ahead, attempt
from vsae_search.search.propose.between import halfway
from vsae_search.search.propose.coverage import edge_points, widest_gap
from vsae_search.search.propose.model import AIM, UNUSABLE, Model, Proposal
from vsae_search.search.propose.samplers import SamplerName, learns
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsae_search.search.propose.counts import Counts
    from vsae_search.search.propose.coverage import Interval
    from vsae_search.search.propose.plans import Field

PATIENCE_S = 5.0
"""A free slot waits this long for a model that is still at work, and then gets an evenly spread point."""


class Proposer:
    """Makes the proposals of all studies.

    Args:
        fields: The studies by name.
        trials: The trials of a study, as they are.
        seed: Seed of the sweep.
        sampler: Who proposes after the start-up points.
        wanted: The range of log2 L0 along which frontiers should be even.
        slots: Trials at a time; with more than one, proposals are made ahead.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        trials: Callable[[str], list[FrozenTrial]],
        *,
        seed: int,
        sampler: SamplerName,
        wanted: Interval | None,
        slots: int,
    ) -> None:
        self.fields, self.trials, self.seed, self.wanted = fields, trials, seed, wanted
        self._learns = learns(sampler)
        self._ahead = Ahead() if slots > 1 and self._learns else None
        # with studies taking turns, a proposal that is made this much early misses no result of its own study
        self._reach = max(1, min(slots, len(fields) - slots))
        self._waits_since: float | None = None

    def close(self) -> None:
        """End the background thread."""
        if self._ahead is not None:
            self._ahead.close()

    def next(self, counts: Mapping[str, Counts]) -> str | None:
        """The study of the next trial: the one with the fewest trials that run or are done; ties go to the first."""
        open_ = [name for name in counts if counts[name].waiting or counts[name].uids < self.fields[name].budget]
        return min(open_, key=lambda name: counts[name].busy, default=None)

    def prepare(self, count: Callable[[], dict[str, Counts]]) -> None:
        """Have the proposals made that the next free slots will need.

        Args:
            count: Counts the trials of every study.
        """
        if self._ahead is None:
            return
        counts = count()
        for _ in range(self._reach):
            name = self.next(counts)
            if name is None:
                return
            one = counts[name]
            counts[name] = one.after(repeated=one.waiting > 0)
            if not one.waiting and self._without_model(name, one.uids) is None:
                self._begin(name, one.uids)

    def proposal(self, name: str, index: int, *, patient: bool) -> Proposal | None:
        """The trial at a position of a study.

        A model that fails, or takes longer than a free slot waits, is replaced by an evenly spread point.

        Args:
            name: The study.
            index: The position, from 0.
            patient: Whether to wait for a model that is still at work.

        Returns:
            The proposal; None when it is not ready and not waited for.
        """
        source, key = self.fields[name], (name, index)
        is_begun = self._ahead is not None and key in self._ahead
        if not is_begun and (proposal := self._without_model(name, index)) is not None:
            return proposal
        if self._ahead is None:
            return attempt(self._model(name, index).propose, key) or Proposal(source.spread(index))
        self._begin(name, index)
        if key in self._ahead and (patient or self._ahead.ready(key)):
            self._waits_since = None
            return self._ahead.take(key) or Proposal(source.spread(index))
        self._waits_since = self._waits_since or time.monotonic()
        if time.monotonic() - self._waits_since < PATIENCE_S:
            return None
        self._waits_since = None
        self._ahead.drop(key)
        return Proposal(source.spread(index))

    def _without_model(self, name: str, index: int) -> Proposal | None:
        """A trial that needs no model: decided beforehand, or half-way between the neighbours of a gap."""
        source = self.fields[name]
        decided = source.decided(index)
        if decided is not None:
            return Proposal(decided)
        trials = self.trials(name)
        gap = self._aim(trials, []) if index % 2 and not source.joint else None
        if gap is None or any(trial.user_attrs.get(AIM) == list(gap) for trial in trials):
            return None  # the second attempt at a gap is the model's
        good = _good(trials)
        edges = edge_points([(trial.values[0], trial.values[1]) for trial in good], gap)
        if edges is None:
            return None
        (architecture,) = source.plans
        first, second = (good[edge].params for edge in edges)
        middle = halfway(source.distributions(architecture), first, second)
        return None if any(trial.params == middle for trial in trials) else Proposal((architecture, middle), aim=gap)

    def _begin(self, name: str, index: int) -> None:
        """Have one proposal made; a study's proposals are made one after the other, as each depends on the last."""
        assert self._ahead is not None
        if (name, index) not in self._ahead and not self._ahead.busy(name):
            self._ahead.begin((name, index), self._model(name, index))

    def _model(self, name: str, index: int) -> Model:
        """What the proposal for a position depends on, as of now."""
        trials = self.trials(name)
        made = self._ahead.waiting(name) if self._ahead is not None else []
        return Model(
            self.fields[name],
            trials,
            pending=[proposal.choice for proposal in made],
            seed=derive_seed(self.seed, "propose", f"{name}-{index:04d}"),
            aim=self._aim(trials, made) if index % 2 else None,
        )

    def _aim(self, trials: list[FrozenTrial], made: list[Proposal]) -> Interval | None:
        """The widest gap in the range that the user asked for."""
        if self.wanted is None or not self._learns:
            return None
        aims = [trial.user_attrs.get(AIM) for trial in trials if trial.state != TrialState.FAIL]
        attempted = [(low, high) for low, high in filter(None, [*aims, *(proposal.aim for proposal in made)])]
        points = [(trial.values[0], trial.values[1]) for trial in _good(trials)]
        return widest_gap(points, self.wanted, attempted)


def _good(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials, whatever their L0."""
    return [t for t in trials if t.state == TrialState.COMPLETE and t.constraints.get(UNUSABLE, 1.0) <= 0]
