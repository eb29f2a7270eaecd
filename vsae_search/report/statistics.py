"""Comparison and scores of the confirmed architectures, for the cards that show them and the verdict."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.frontier import (
    compare,
    epsilon_additive,
    hypervolumes,
    igd_plus,
    mean_interval,
    pooled_frontier,
    search_p,
    staircase,
)
from vsae_search.report.replicated import box, matched_levels, replicates, search_points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.frontier import Comparison, Replicates
    from vsae_search.frontier.hypervolume import Point
    from vsae_search.report.data import ReportData

ALPHA = 0.05


def comparisons(data: ReportData) -> tuple[Comparison, ...]:
    """Every pair of architectures with complete seeds at every endpoint; empty without two of them.

    Where the seeds could reach no corrected p for so many pairs, fewer are tested: those in `planned_pairs`. Which
    pairs these are, and whether it comes to that, is decided by the search and the numbers of seeds, never by what the
    confirmed runs show. The others keep their effect sizes and intervals.

    Of different sweeps, a difference also has to be larger than the luck of two searches explains: the p-value is the
    larger of the two.
    """
    runs, corners = replicates(data), box(data)
    if len(runs) < 2:
        return ()
    reference, ideal = corners or (None, None)

    def compared(pairs: Sequence[tuple[str, str]] | None) -> tuple[Comparison, ...]:
        levels = matched_levels(data)
        return compare(list(runs.values()), reference, ideal=ideal, l0s=levels, pairs=pairs, alpha=ALPHA)

    every = _beyond_luck(data, compared(None), corners)
    if any(one.smallest_p <= ALPHA for one in every):
        return every
    planned = planned_pairs(data, list(runs))
    found = _beyond_luck(data, compared(planned), corners) if planned else ()
    tested = {(one.a, one.b, one.l0): one for one in found}
    if not any(one.smallest_p <= ALPHA for one in tested.values()):
        return every
    why = f"only {len(planned)} of {len(runs) * (len(runs) - 1) // 2} pairs are tested, as many as the seeds can carry"
    return tuple(tested.get((one.a, one.b, one.l0), replace(one, why_no_p=why)) for one in every)


def _beyond_luck(
    data: ReportData, found: Sequence[Comparison], corners: tuple[Point, Point] | None
) -> tuple[Comparison, ...]:
    """Comparisons whose p-values take in, between sweeps, that another search would have found something else."""
    if not data.sweeps or corners is None:
        return tuple(found)
    levels, lucks = matched_levels(data), dict[tuple[str, str], dict[float | None, float]]()
    crossing = {(one.a, one.b) for one in found if one.p_value is not None and _sweep(one.a) != _sweep(one.b)}

    def luck(one: Comparison) -> float:
        if (one.a, one.b) not in lucks:
            first, second = (search_points(data, name) for name in (one.a, one.b))
            p_E = search_p(first, second, corners[0], ideal=corners[1], l0s=levels)
            lucks[one.a, one.b] = dict(zip([None, *levels], p_E.tolist(), strict=True))
        return min(1.0, len(crossing) * lucks[one.a, one.b][one.l0])  # Bonferroni over the pairs

    return tuple(
        replace(one, p_value=max(one.p_value or 0.0, luck(one)))
        if one.significant and (one.a, one.b) in crossing
        else one
        for one in found
    )


def _sweep(name: str) -> str:
    """The sweep of an architecture in a comparison of several."""
    return name.partition("/")[0]


def planned_pairs(data: ReportData, names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that matter most, chosen without looking at confirmed runs.

    Of several sweeps: each architecture against itself in the other sweeps. Of one: the architecture with the largest
    hypervolume in the search against all others.
    """
    every = list(itertools.combinations(names, 2))
    if data.sweeps:
        return [(a, b) for a, b in every if a.partition("/")[2] == b.partition("/")[2]]
    best = max(names, key=lambda name: (_searched(data, name), name))
    return [pair for pair in every if best in pair]


def _searched(data: ReportData, name: str) -> float:
    found = data.architecture(name).hypervolume
    return found.normalised if found else 0.0


def as_row(one: Comparison) -> dict[str, Any]:
    """A comparison as JSON, with the winner spelled out."""
    return {**asdict(one), "significant": one.significant, "winner": one.winner}


def scores(data: ReportData) -> list[dict[str, Any]]:
    """Per confirmed architecture: hypervolume, and its distance from the pooled frontier, over seeds; best first."""
    runs, corners = replicates(data), box(data)
    if corners is None:
        return []
    pooled_by_seed = _pooled(runs)
    found = [_score(one, pooled_by_seed, *corners) for one in runs.values()]
    return sorted(found, key=lambda entry: (-entry["hypervolume"], entry["architecture"]))


def _pooled(runs: Mapping[str, Replicates]) -> Any:
    """The frontier of all confirmed runs of all architectures together."""
    return pooled_frontier([points_N2 for one in runs.values() for points_N2 in one.points_RN2])


def _score(runs: Replicates, pooled_M2: Any, reference: Point, ideal: Point) -> dict[str, Any]:
    areas_R = hypervolumes(runs.points_RN2, reference, ideal=ideal)
    fronts = [staircase(points_N2) for points_N2 in runs.points_RN2]
    behind = [igd_plus(points, pooled_M2, reference, ideal=ideal) for points in fronts]
    epsilon = [epsilon_additive(points, pooled_M2, reference, ideal=ideal) for points in fronts]
    interval = mean_interval(areas_R)
    return {
        "architecture": runs.architecture,
        "num_runs": runs.num_runs,
        "num_configurations": len(runs.configurations),
        "hypervolume": float(areas_R.mean()),
        "interval": None if interval is None else asdict(interval),
        "igd_plus": _mean([one.normalised for one in behind if one is not None], len(behind)),
        "epsilon": _mean([one.normalised for one in epsilon if one is not None], len(epsilon)),
    }


def _mean(values: list[float], num_runs: int) -> float | None:
    """Mean over runs; None unless every run has a value."""
    return float(np.mean(values)) if values and len(values) == num_runs else None
