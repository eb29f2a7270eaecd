"""A confirmation as the report sees it: per configuration the search's point and the points of its replicates.

Bands, intervals and tests are computed from the replicates only; the search's points were chosen for being good, and
the gap between the two says how much of that was luck.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vsae_search.frontier.replicates import Replicates, replicates_from_rows
from vsae_search.report.points import AxisPoint
from vsae_search.search import load_confirm, load_sweep, pair_with_search
from vsae_search.space.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.search import Confirmed, TrialRecord


class ReplicateRow(Strict):
    """One configuration trained with one seed."""

    seed: int
    """Seed of initial weights and data order, shared by all architectures."""
    state: str
    """``completed``, ``diverged`` or ``failed``."""
    l0: float | None
    """Mean number of firing latents per token on the held-out rows; null unless completed."""
    delta_ce: float | None
    """Extra loss on the held-out rows; null unless completed."""
    metrics: dict[str, float | None]
    """Every final metric; null where it is not finite."""


class ConfirmedRow(Strict):
    """One configuration: what the search measured and what its replicates measured."""

    uid: str
    """Its trial in the search."""
    architecture: str
    """Registered name."""
    rank: int
    """0 on the frontier of its architecture when it was chosen."""
    search: AxisPoint
    """What the search measured: one seed, on the evaluation rows."""
    mean: AxisPoint | None
    """Mean of the completed replicates; null when there is none."""
    gap: AxisPoint | None
    """Optimism gap: search minus mean. Below zero where the search was too optimistic."""
    replicates: tuple[ReplicateRow, ...]
    """In the order of the replicates."""


class ConfirmSummary(Strict):
    """The confirmation of a sweep."""

    status: str
    """``running``, ``completed``, ``interrupted`` or ``failed``."""
    margin: int
    """Largest rank that was chosen last."""
    seeds: tuple[int, ...]
    """Seed of each replicate."""
    evaluation_digest: str
    """Digest of the held-out rows."""
    num_rows: int
    """Number of held-out rows."""
    states: dict[str, int]
    """Number of trainings by state."""
    configurations: tuple[ConfirmedRow, ...]
    """By architecture and rising L0 in the search."""

    def replicates(self, architecture: str) -> Replicates:
        """The replicated frontiers of one architecture, as the statistics take them; NaN where one diverged."""
        return replicates_from_rows(
            architecture,
            [
                (row.uid, replicate.seed, replicate.l0, replicate.delta_ce)
                for row in self.configurations
                if row.architecture == architecture
                for replicate in row.replicates
            ],
        )


def read_confirmation(directory: Path, trials: Sequence[TrialRecord] | None = None) -> ConfirmSummary | None:
    """Read the confirmation of a sweep, finished or not.

    Args:
        directory: The sweep directory.
        trials: The trials of the search, when they have been read before.

    Returns:
        Its numbers; None when the sweep has not been confirmed.

    Raises:
        UserInputError: There is no sweep in that directory.
        CorruptFile: A record cannot be read.
    """
    found = load_confirm(directory)
    if found is None:
        return None
    record, replicates = found
    trials = load_sweep(directory)[1] if trials is None else trials
    rows = tuple(_row(one) for one in pair_with_search(record, trials, replicates))
    states: dict[str, int] = {}
    for replicate in (replicate for row in rows for replicate in row.replicates):
        states[replicate.state] = states.get(replicate.state, 0) + 1
    return ConfirmSummary(
        status=record.status,
        margin=record.margin,
        seeds=record.seeds,
        evaluation_digest=record.bank["evaluation_digest"],
        num_rows=record.bank["evaluation_rows"],
        states=states,
        configurations=rows,
    )


def _row(one: Confirmed) -> ConfirmedRow:
    return ConfirmedRow(
        uid=one.uid,
        architecture=one.architecture,
        rank=one.rank,
        search=AxisPoint(l0=one.search["l0"], delta_ce=one.search["delta_ce"]),
        mean=_point(one.mean("l0"), one.mean("delta_ce")),
        gap=_point(one.gap("l0"), one.gap("delta_ce")),
        replicates=tuple(
            _replicate(seed, replicate) for seed, replicate in zip(one.seeds, one.replicates, strict=True)
        ),
    )


def _replicate(seed: int, record: TrialRecord) -> ReplicateRow:
    metrics = {key: value if math.isfinite(value) else None for key, value in record.metrics.items()}
    completed = metrics if record.state == "completed" else {}
    return ReplicateRow(
        seed=seed, state=record.state, l0=completed.get("l0"), delta_ce=completed.get("delta_ce"), metrics=metrics
    )


def _point(l0: float | None, delta_ce: float | None) -> AxisPoint | None:
    return None if l0 is None or delta_ce is None else AxisPoint(l0=l0, delta_ce=delta_ce)
