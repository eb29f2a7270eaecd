"""The confirmed runs of a report as the statistics take them, and what every statistic card needs beside them.

A seed counts for an architecture when every configuration of the architecture has ended with it, completed or
diverged; a seed for which the infrastructure lost one would look worse than it is.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vsae_search.frontier import MATCHED_L0, Replicates, attainment_surface, ownership, staircase
from vsae_search.report.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vsae_search.frontier.hypervolume import Point
    from vsae_search.frontier.ownership import Segment
    from vsae_search.report.data import ReportData

OCTAVES_SHOWN = 5
_ENDED = ("completed", "diverged")


def box(data: ReportData) -> tuple[Point, Point] | None:
    """Reference and ideal point; None without a usable reference point."""
    reference, ideal = data.axes.reference, data.axes.ideal
    if reference is None or ideal is None:
        return None
    return (reference.l0, reference.delta_ce), (ideal.l0, ideal.delta_ce)


def counted(points: NDArray[np.float64], data: ReportData) -> NDArray[np.float64]:
    """Points, shape [..., 2], with those outside the L0 range that was asked for moved to where they add nothing."""
    if data.axes.l0_range is None or data.axes.reference is None:
        return points
    low, high = data.axes.l0_range
    out = (points[..., 0] < low) | (points[..., 0] > high)
    return np.stack([np.where(out, data.axes.reference.l0, points[..., 0]), points[..., 1]], axis=-1)


def search_points(data: ReportData, name: str) -> NDArray[np.float64]:
    """(L0, delta_ce) of an architecture's completed trials, shape [N, 2]."""
    rows = [
        (row.l0, row.delta_ce)
        for row in data.trials
        if row.architecture == name and row.state == "completed" and None not in (row.l0, row.delta_ce)
    ]
    return counted(np.array(rows, dtype=np.float64).reshape(-1, 2), data)


def replicates(data: ReportData) -> dict[str, Replicates]:
    """The replicated frontiers of the architectures that have at least one complete seed, in report order."""
    if data.confirmation is None:
        return {}
    found = {entry.name: _complete(data, entry.name) for entry in data.architectures}
    return {name: runs for name, runs in found.items() if runs is not None}


def _complete(data: ReportData, name: str) -> Replicates | None:
    assert data.confirmation is not None
    rows = [row for row in data.confirmation.configurations if row.architecture == name]
    ended = [{one.seed for one in row.replicates if one.state in _ENDED} for row in rows]
    seeds = sorted(set.intersection(*ended)) if ended else []
    if not seeds:
        return None
    runs = data.confirmation.replicates(name).of_seeds(seeds)
    return Replicates(name, runs.seeds, counted(runs.points_RN2, data), runs.configurations)


def frontier_points(data: ReportData) -> tuple[Literal["confirmed", "search"], dict[str, NDArray[np.float64]]]:
    """One frontier per architecture, shape [M, 2]: what half of the seeds attain, or what the search found.

    Confirmed runs are taken when two or more architectures have them; the others are left out then, because scores of
    the search would look better than they are beside confirmed ones.
    """
    runs = replicates(data)
    if len(runs) >= 2:
        return "confirmed", {name: attainment_surface(one.points_RN2).corners_M2 for name, one in runs.items()}
    return "search", {entry.name: staircase(search_points(data, entry.name)) for entry in data.architectures}


def stretches(points: Mapping[str, NDArray[np.float64]], corners: tuple[Point, Point]) -> tuple[Segment, ...]:
    """Who is lowest at which L0 inside the reference box: from the ideal L0, where figures begin, to the reference."""
    reference, ideal = corners
    owned = ownership(points, reference)
    return tuple(replace(part, low=max(part.low, ideal[0])) for part in owned if part.high > ideal[0])


def matched_levels(data: ReportData) -> tuple[float, ...]:
    """Values of L0 at which frontiers are read, decided by the search alone and never by the confirmed runs.

    8, 16, 32, 64 and 128; where the subject knows its true L0, the octaves around that. Of these, what lies below the
    reference L0 and is reached by the search frontier of some architecture.
    """
    smallest = min((entry.staircase.l0[0] for entry in data.architectures if entry.staircase.l0), default=math.inf)
    largest = data.axes.reference.l0 if data.axes.reference else math.inf
    levels: tuple[float, ...] = MATCHED_L0
    if data.sweep.true_l0:
        first = round(math.log2(data.sweep.true_l0)) - 1
        levels = tuple(2.0 ** (first + octave) for octave in range(OCTAVES_SHOWN))
    if data.axes.l0_range is not None:
        largest = min(largest, data.axes.l0_range[1])
    return tuple(level for level in levels if smallest <= level <= largest)


def confirm_command(data: ReportData) -> str:
    """The command, or commands, that would confirm what this report shows."""
    names = [part.name for part in data.sweeps] or [data.sweep.name]
    return listed([f"python -m vsae_search confirm {shlex.quote(name)}" for name in names])


def not_confirmed(data: ReportData, what: str, at_least: int = 1) -> str | None:
    """Why something that takes confirmed runs cannot be shown; None when it can.

    Args:
        data: The report.
        what: What cannot be shown, the beginning of a sentence.
        at_least: Architectures with confirmed runs that it takes.
    """
    have = len(replicates(data))
    if have >= at_least:
        return None
    if data.confirmation is None:
        reason = "the search trained every configuration once"
    elif have:
        reason = f"only {have} of {len(data.architectures)} architectures has a complete seed"
    else:
        reason = f"the confirmation is {data.confirmation.status} and no seed is complete"
    return f"{what} takes retrained configurations, but {reason}. Run: {confirm_command(data)}"


def seeds_text(data: ReportData) -> str:
    """How many seeds stand behind confirmed numbers: ``6 seeds``, or ``4 to 6 seeds``."""
    counts = sorted({runs.num_runs for runs in replicates(data).values()})
    if not counts:
        return "no seeds"
    if len(counts) == 1:
        return f"{counts[0]} seed{'s' if counts[0] != 1 else ''}"
    return f"{counts[0]} to {counts[-1]} seeds"
