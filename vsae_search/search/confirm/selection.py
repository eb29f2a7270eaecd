"""Which configurations of a sweep are trained again: each architecture's frontier and a margin behind it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import moocore
import numpy as np

from vsae_search.search.confirm.records import Configuration
from vsae_search.search.objectives import L0_FLOOR, usable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from vsae_search.search.records import ReferenceRecord, TrialRecord

_SHARE = 4
_FEWEST, _MOST = 3, 12


def default_limit(num_completed: int, num_frontier: int = 0) -> int:
    """Most configurations of an architecture that are chosen when nothing else is asked for.

    The whole frontier, since a part of it has a smaller hypervolume than the architecture earned; and for the margin
    room up to a quarter of the completed trials, at least 3. Never more than 12: with six seeds the confirmation then
    costs about one and a half times the search of an architecture that has 12 to 48 trials, more for fewer trials.

    Args:
        num_completed: Completed trials of the architecture.
        num_frontier: How many of them are on its frontier.
    """
    return min(max(-(-num_completed // _SHARE), num_frontier, _FEWEST), _MOST)


def choose(
    trials: Iterable[TrialRecord],
    architecture: str,
    *,
    margin: int,
    limit: int | None = None,
    earlier: Collection[str] = (),
    reference: ReferenceRecord | None = None,
) -> list[Configuration]:
    """Choose the configurations of one architecture that are worth training again.

    Candidates are the completed trials of rank 0 to ``margin``. Of several with the same hyper-parameters one is a
    candidate. Those on or beyond the reference point, which add nothing to a hypervolume, are candidates only when
    there are no others. Of too many candidates, lower ranks come first, and within a rank those that were confirmed
    earlier; the rest are spread evenly over log2 L0, beginning with the smallest and the largest.

    Args:
        trials: Trials of the sweep, of any architecture and state.
        architecture: The architecture.
        margin: Largest rank.
        limit: Most configurations; None for the default.
        earlier: Uids that were confirmed earlier.
        reference: The reference point of the sweep.

    Returns:
        The configurations by rising L0; none when no trial of the architecture completed.
    """
    usable_ones = [t for t in trials if t.architecture == architecture and t.state == "completed" and usable(t.metrics)]
    inside = [trial for trial in usable_ones if _inside(trial, reference)] or usable_ones
    ranked = _without_repeats(_ranked(inside), earlier)
    if limit is None:
        limit = default_limit(len(usable_ones), sum(rank == 0 for _, rank in ranked))
    chosen: list[tuple[TrialRecord, int]] = []
    for rank in range(margin + 1):
        tier = [trial for trial, found in ranked if found == rank]
        taken = _spread(tier, limit - len(chosen), earlier, [trial for trial, _ in chosen])
        chosen += [(trial, rank) for trial in taken]
    chosen.sort(key=lambda entry: (entry[0].metrics["l0"], entry[0].uid))
    return [Configuration(uid=trial.uid, architecture=architecture, rank=rank) for trial, rank in chosen]


def _inside(trial: TrialRecord, reference: ReferenceRecord | None) -> bool:
    if reference is None:
        return True
    return trial.metrics["l0"] < reference.l0 and trial.metrics["delta_ce"] < reference.delta_ce


def _ranked(trials: Sequence[TrialRecord]) -> list[tuple[TrialRecord, int]]:
    """Trials with their ranks, best first."""
    if not trials:
        return []
    points_N2 = np.array([[trial.metrics["l0"], trial.metrics["delta_ce"]] for trial in trials], dtype=np.float64)
    ranks = moocore.pareto_rank(points_N2).tolist()
    return sorted(zip(trials, ranks, strict=True), key=lambda entry: (entry[1], entry[0].uid))


def _without_repeats(
    ranked: Sequence[tuple[TrialRecord, int]], earlier: Collection[str]
) -> list[tuple[TrialRecord, int]]:
    """One trial for every set of hyper-parameters, with the best rank that any of them has."""
    kept: dict[str, tuple[TrialRecord, int]] = {}
    for trial, rank in ranked:
        key = json.dumps(trial.params, sort_keys=True)
        if key not in kept:
            kept[key] = (trial, rank)
        elif trial.uid in earlier and kept[key][0].uid not in earlier:
            kept[key] = (trial, kept[key][1])
    return list(kept.values())


def _spread(
    trials: Sequence[TrialRecord], limit: int, first: Collection[str], beside: Iterable[TrialRecord]
) -> list[TrialRecord]:
    """At most ``limit`` trials: those in ``first``, then always the one farthest in log2 L0 from all taken so far.

    Args:
        trials: Trials of one rank.
        limit: How many may be taken.
        first: Uids that are taken before others.
        beside: Trials of better ranks that have been taken.
    """
    waiting = sorted(trials, key=lambda trial: (trial.metrics["l0"], trial.uid))
    taken = [trial for trial in waiting if trial.uid in first][: max(limit, 0)]
    places = [_place(trial) for trial in (*beside, *taken)]
    waiting = [trial for trial in waiting if trial not in taken]
    while waiting and len(taken) < limit:
        farthest = max(waiting, key=lambda trial: min((abs(_place(trial) - place) for place in places), default=0.0))
        waiting.remove(farthest)
        taken.append(farthest)
        places.append(_place(farthest))
    return taken


def _place(trial: TrialRecord) -> float:
    return math.log2(max(trial.metrics["l0"], L0_FLOOR))
