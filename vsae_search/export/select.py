"""Which trials of a sweep are exported."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.frontier import nondominated
from vsae_search.search import load_confirm, load_sweep, pair_with_search

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from vsae_search.search import TrialRecord

PARETO, CONFIRMED, ALL = "pareto", "confirmed-pareto", "all"


def select_trials(directory: Path, wanted: str) -> tuple[TrialRecord, ...]:
    """The completed trials that a selection names, by architecture and rising L0.

    Args:
        directory: The sweep directory.
        wanted: ``pareto``: the frontier of every architecture, as the search measured it. ``confirmed-pareto``: the
            configurations on the frontier of the means of their confirmed runs. ``all``: every completed trial. Else
            uids, with commas between them, which keep their order.

    Raises:
        UserInputError: A uid is unknown or of a trial without an autoencoder; the sweep is not confirmed; nothing is
            left.
    """
    _, trials = load_sweep(directory)
    completed = {trial.uid: trial for trial in trials if trial.state == "completed"}
    if wanted == ALL:
        chosen = _ordered(completed.values())
    elif wanted == PARETO:
        chosen = _ordered(_frontiers(completed, {uid: _point(trial.metrics) for uid, trial in completed.items()}))
    elif wanted == CONFIRMED:
        chosen = _ordered(_frontiers(completed, _confirmed_points(directory, trials)))
    else:
        chosen = _named(wanted, {trial.uid: trial for trial in trials})
    if not chosen:
        raise UserInputError(f"no trial of {directory.name} is completed", "wait for the first, or see the report")
    return tuple(chosen)


def _point(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics.get("l0", math.nan), metrics.get("delta_ce", math.nan)


def _frontiers(
    completed: Mapping[str, TrialRecord], points: Mapping[str, tuple[float, float]]
) -> Iterable[TrialRecord]:
    """The trials whose points no other one of their architecture dominates; those without finite numbers never do."""
    groups: dict[str, list[str]] = {}
    for uid, point in points.items():
        if uid in completed and all(map(math.isfinite, point)):
            groups.setdefault(completed[uid].architecture, []).append(uid)
    for uids in groups.values():
        keep = nondominated(np.array([points[uid] for uid in uids], dtype=np.float64))
        yield from (completed[uid] for uid, kept in zip(uids, keep, strict=True) if kept)


def _confirmed_points(directory: Path, trials: Sequence[TrialRecord]) -> dict[str, tuple[float, float]]:
    found = load_confirm(directory)
    if found is None:
        raise UserInputError(
            f"{directory.name} has not been confirmed",
            f"run: python -m vsae_search confirm {directory.name}; or export with --select {PARETO}",
        )
    points = {}
    for one in pair_with_search(found[0], trials, found[1]):
        l0, delta_ce = one.mean("l0"), one.mean("delta_ce")
        if l0 is not None and delta_ce is not None:
            points[one.uid] = (l0, delta_ce)
    return points


def _named(wanted: str, known: Mapping[str, TrialRecord]) -> list[TrialRecord]:
    uids = list(dict.fromkeys(part.strip() for part in wanted.split(",") if part.strip()))
    if not uids:
        raise UserInputError("--select names no trial", f"give {PARETO}, {CONFIRMED}, {ALL}, or uids: topk-0003,...")
    for uid in uids:
        if uid not in known:
            close = difflib.get_close_matches(uid, [*known, PARETO, CONFIRMED, ALL], n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserInputError(f"there is no trial {uid!r} in this sweep", f"{hint}the report lists all uids")
        if known[uid].state != "completed":
            raise UserInputError(
                f"trial {uid} has no autoencoder: it is {known[uid].state}", "only completed trials can be exported"
            )
    return [known[uid] for uid in uids]


def _ordered(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    return sorted(trials, key=lambda trial: (trial.architecture, trial.metrics.get("l0", math.inf), trial.uid))
