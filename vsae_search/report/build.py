"""From records to the numbers of a report.

The frontier of an architecture holds its *completed* trials only: a trial that was stopped early had a smaller
training budget, and a diverged or failed one has no valid metrics. All of them are counted.
"""

from __future__ import annotations

import logging
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vsae_search
from vsae_search.frontier import default_ideal, hypervolume, nondominated, outside, ownership, staircase
from vsae_search.report.card import Card, Computes, discover
from vsae_search.report.confirmed import ConfirmSummary
from vsae_search.report.data import (
    ArchitectureSummary,
    Axes,
    HypervolumeSummary,
    Owned,
    Provenance,
    ReportData,
    Stairs,
    SweepPart,
    SweepSummary,
    TrialRow,
)
from vsae_search.report.points import AxisPoint
from vsae_search.report.references import ReferenceRow
from vsae_search.report.several import read_sources
from vsae_search.report.styles import Style, styles
from vsae_search.report.text import clean, mask
from vsae_search.tracking.uris import mask_nested, mask_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.frontier.hypervolume import Point
    from vsae_search.report.references import ImportedSae
    from vsae_search.report.source import Source
    from vsae_search.search.records import ReferenceRecord, SweepRecord, TrialRecord

logger = logging.getLogger(__name__)

_LONGEST_ERROR = 2000


def build_report(
    sweep_dir: Path | Sequence[Path], *, tracking_url: str | None = None, cards: Sequence[Card] | None = None
) -> ReportData:
    """Collect every number of the report of a sweep, or of a comparison of sweeps.

    Args:
        sweep_dir: The sweep directory, or several of sweeps that describe the same activations.
        tracking_url: Address of the MLflow server that shows the runs; None takes the one the sweep was recorded at.
        cards: Cards whose numbers are wanted; None takes all that are installed.

    Raises:
        UserInputError: There is no sweep in that directory, or the sweeps cannot be compared.
        CorruptFile: A record cannot be read.
    """
    source = read_sources([sweep_dir] if isinstance(sweep_dir, Path) else list(sweep_dir))
    data = _base(source, tracking_url)
    computed: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for card in discover(data.experiment) if cards is None else cards:
        if not isinstance(card, Computes):
            continue
        try:
            computed[card.name] = clean(card.compute(source, data))
        except Exception as error:  # the card boundary: one broken card never loses the report
            logger.exception("report.card_failed card=%s stage=compute", card.name)
            errors[card.name] = mask_secrets(f"{type(error).__name__}: {error}")
    return data.model_copy(update={"cards": computed, "card_errors": errors})


def _base(source: Source, tracking_url: str | None) -> ReportData:
    sweep, axes = _sweep(source), _axes(source)
    reference = (axes.reference.l0, axes.reference.delta_ce) if axes.reference else None
    ideal = (axes.ideal.l0, axes.ideal.delta_ce) if axes.ideal else None
    rows = _trials(source, reference, tracking_url)
    names = list(dict.fromkeys([*map(mask, source.record.architectures), *(row.architecture for row in rows)]))
    looks = styles(names)
    summaries = tuple(_architecture(source, name, looks[name], rows, reference, ideal) for name in names)
    owned = ownership({name: _points(_eligible(rows, name)) for name in names}, reference) if reference else ()
    return ReportData(
        sweep=sweep,
        axes=axes,
        architectures=summaries,
        trials=tuple(rows),
        pooled_hypervolume=_hypervolume(_counted(source, _points(_eligible(rows))), reference, ideal),
        ownership=tuple(Owned(low=part.low, high=part.high, owners=part.owners) for part in owned),
        provenance=_provenance(source),
        sweeps=tuple(_part(part.record) for part in source.parts),
        confirmation=_confirmation(source),
        references=tuple(_reference(one) for one in source.references),
    )


def _reference(one: ImportedSae) -> ReferenceRow:
    return ReferenceRow(
        label=mask(one.label),
        format=mask(one.format),
        class_name=mask(one.class_name),
        model=mask(one.model) if one.model else None,
        dataset=mask(one.dataset) if one.dataset else None,
        d_sae=one.d_sae,
        l0=_finite(one.metrics.get("l0")),
        delta_ce=_finite(one.metrics.get("delta_ce")),
        metrics=clean(one.metrics),
    )


def _part(record: SweepRecord) -> SweepPart:
    return SweepPart(
        name=record.name,
        status=record.status,
        digest=record.digest,
        seed=record.seed,
        git_commit=record.git_commit,
        reference=_corner(record.reference),
    )


def _confirmation(source: Source) -> ConfirmSummary | None:
    """The confirmation as JSON can hold it; strings in it are masked like all others."""
    if source.confirmation is None:
        return None
    return ConfirmSummary.model_validate(clean(source.confirmation.model_dump()), strict=False)


def _sweep(source: Source) -> SweepSummary:
    record = source.record
    return SweepSummary(
        name=record.name,
        description=mask_secrets(mask(record.description)),
        status=record.status,
        digest=record.digest,
        seed=record.seed,
        git_commit=record.git_commit,
        git_dirty=record.git_dirty,
        versions=record.versions,
        subject=clean(record.subject),
        true_l0=_finite(record.subject.get("true_l0")),
        bank=clean(mask_nested(record.bank)),
        resources=clean(record.resources),
        utilisation=clean(record.utilisation),
        early_stopping=clean(record.early_stopping),
        space=clean(mask_nested(record.space)),
        sessions=record.sessions,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )


def _axes(source: Source) -> Axes:
    record, reference, ideal = source.record, None, None
    given = record.reference
    if given and (reference := _corner(given)):
        low = default_ideal((given.l0, given.delta_ce), _finite(record.subject.get("true_l0")))
        low = low if given.l0_range is None else (given.l0_range[0], low[1])
        ideal = AxisPoint(l0=low[0], delta_ce=low[1])
    return Axes(
        reference=reference,
        reference_source=given.source if given and reference else None,
        ideal=ideal,
        l0_range=given.l0_range if given and reference else None,
        loss_name=mask(record.loss_name) or "extra loss",
        loss_unit=mask(record.loss_unit),
    )


def _corner(given: ReferenceRecord | None) -> AxisPoint | None:
    """A recorded reference point, where a box can end in it."""
    if given is None or not all(math.isfinite(value) and value > 0 for value in (given.l0, given.delta_ce)):
        return None
    return AxisPoint(l0=given.l0, delta_ce=given.delta_ce)


def _trials(source: Source, reference: Point | None, tracking_url: str | None) -> list[TrialRow]:
    rows = [_trial(source, trial, tracking_url) for trial in source.trials]
    eligible = [row for row in rows if is_eligible(row)]
    by_name: dict[str, list[TrialRow]] = {}
    for row in eligible:
        by_name.setdefault(row.architecture, []).append(row)
    own = {uid for group in by_name.values() for uid in _nondominated_uids(group)}
    pooled = set(_nondominated_uids(eligible))
    far_N = outside(_points(eligible), reference) if reference else np.zeros(len(eligible), dtype=bool)
    wanted = source.record.reference
    far = {row.uid for row, is_far in zip(eligible, far_N, strict=True) if is_far}
    far |= {row.uid for row in eligible if wanted is not None and row.l0 is not None and not wanted.counts(row.l0)}
    return [
        row.model_copy(
            update={
                "on_frontier": row.uid in own,
                "on_pooled_frontier": row.uid in pooled,
                "outside_reference": row.uid in far,
            }
        )
        for row in rows
    ]


def _trial(source: Source, trial: TrialRecord, tracking_url: str | None) -> TrialRow:
    error = mask_secrets(mask(trial.error))[:_LONGEST_ERROR] if trial.error else None
    return TrialRow(
        uid=trial.uid,
        architecture=mask(trial.architecture),
        number=trial.number,
        state=trial.state,
        seed=trial.seed,
        params=clean(trial.params),
        d_sae=source.d_sae(trial),
        l0=_finite(trial.metrics.get("l0")),
        delta_ce=_finite(trial.metrics.get("delta_ce")),
        metrics=clean(trial.metrics),
        on_frontier=False,
        on_pooled_frontier=False,
        outside_reference=False,
        wall_s=_finite(trial.wall_s) or 0.0,
        overhead_s=_finite(trial.overhead_s) or 0.0,
        attempt=trial.attempt,
        error=error,
        run_url=source.run_url(trial.uid, tracking_url),
    )


def _architecture(
    source: Source, name: str, style: Style, rows: list[TrialRow], reference: Point | None, ideal: Point | None
) -> ArchitectureSummary:
    own = [row for row in rows if row.architecture == name]
    points_N2 = _points(_eligible(own))
    corners_M2 = staircase(points_N2)
    frontier = sorted((row for row in own if row.on_frontier), key=lambda row: (row.l0 or 0.0, row.uid))
    plan = source.record.architectures.get(name)
    ranges = source.record.space.get("architectures", {}).get(name)
    return ArchitectureSummary(
        name=name,
        colour=style.colour,
        symbol=style.symbol,
        planned=plan.trials if plan else None,
        ranges=clean(ranges or {}),
        states=dict(sorted(Counter(row.state for row in own).items())),
        num_non_finite=sum(row.state == "completed" and not is_eligible(row) for row in own),
        frontier=tuple(row.uid for row in frontier),
        staircase=Stairs(l0=tuple(corners_M2[:, 0].tolist()), delta_ce=tuple(corners_M2[:, 1].tolist())),
        hypervolume=_hypervolume(_counted(source, points_N2), reference, ideal),
    )


def is_eligible(row: TrialRow) -> bool:
    """Whether a trial may enter a frontier: completed, with a finite L0 and delta_ce."""
    return row.state == "completed" and row.l0 is not None and row.delta_ce is not None


def _eligible(rows: list[TrialRow], name: str | None = None) -> list[TrialRow]:
    return [row for row in rows if is_eligible(row) and name in (None, row.architecture)]


def _points(rows: list[TrialRow]) -> NDArray[np.float64]:
    points_N2: NDArray[np.float64] = np.array([(row.l0, row.delta_ce) for row in rows], dtype=np.float64).reshape(-1, 2)
    return points_N2


def _counted(source: Source, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points with those outside the range of L0 that was asked for moved onto the reference, where they add nothing."""
    reference = source.record.reference
    if reference is None or reference.l0_range is None:
        return points_N2
    low, high = reference.l0_range
    l0_N = np.where((points_N2[:, 0] < low) | (points_N2[:, 0] > high), reference.l0, points_N2[:, 0])
    return np.column_stack([l0_N, points_N2[:, 1]])


def _nondominated_uids(rows: list[TrialRow]) -> list[str]:
    return [row.uid for row, keep in zip(rows, nondominated(_points(rows)), strict=True) if keep]


def _hypervolume(
    points_N2: NDArray[np.float64], reference: Point | None, ideal: Point | None
) -> HypervolumeSummary | None:
    if reference is None:
        return None
    result = hypervolume(points_N2, reference, ideal=ideal)
    return HypervolumeSummary(
        value=result.value,
        normalised=result.normalised,
        num_outside=result.num_outside,
        num_clipped=result.num_clipped,
    )


def _provenance(source: Source) -> Provenance:
    return Provenance(
        command="\n".join(
            f"python -m vsae_search sweep {shlex.quote(name + '.yaml')}"
            for name in [part.record.name for part in source.parts] or [source.record.name]
        ),
        space_yaml=mask_secrets(mask(source.space_yaml)),
        checksums=source.checksums(),
        report_version=vsae_search.__version__,
    )


def _finite(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
