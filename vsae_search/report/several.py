"""Several sweeps as one: their architectures side by side, called ``<sweep>/<architecture>``.

Numbers of two sweeps may be compared only when they describe the same activations: same subject, same evaluation rows,
same held-out rows. The reference point is the larger one in each coordinate, so that no point of either sweep is left
out that counted in its own report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.errors import UserInputError
from vsae_search.report.source import Source, read_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.report.confirmed import ConfirmSummary
    from vsae_search.report.references import ImportedSae
    from vsae_search.search.records import ReferenceRecord, SweepRecord

_SHOWN = 60


def read_sources(directories: Sequence[Path]) -> Source:
    """Read one sweep, or several that can be compared.

    Args:
        directories: Sweep directories.

    Raises:
        UserInputError: One of them is no sweep, a name is given twice, or two sweeps describe different activations.
        CorruptFile: A record cannot be read.
    """
    parts = tuple(read_source(directory) for directory in directories)
    if len(parts) == 1:
        return parts[0]
    names = [part.record.name for part in parts]
    if len(set(names)) < len(names):
        raise UserInputError(
            f"a sweep is given twice: {', '.join(names)}", "name different sweeps; a copy needs a name of its own"
        )
    for part in parts[1:]:
        _require_comparable(parts[0], part)
    return Source(
        directory=parts[0].directory,
        record=_record([part.record for part in parts]),
        trials=tuple(
            trial.model_copy(
                update={
                    "uid": f"{part.record.name}/{trial.uid}",
                    "architecture": f"{part.record.name}/{trial.architecture}",
                }
            )
            for part in parts
            for trial in part.trials
        ),
        runs=None,
        space_yaml="\n".join(f"# {part.record.name}\n{part.space_yaml}" for part in parts),
        confirmation=_confirmation(parts),
        references=_references(parts),
        parts=parts,
    )


def _require_comparable(first: Source, other: Source) -> None:
    differences = [
        f"{what} {_short(ours)} in {first.record.name}, {_short(theirs)} in {other.record.name}"
        for what, ours, theirs in (
            *_compared(first.record, other.record),
            ("held-out rows", _held_out(first), _held_out(other)),
        )
        if ours != theirs and None not in (ours, theirs)
    ]
    if differences:
        raise UserInputError(
            f"the sweeps {first.record.name} and {other.record.name} cannot be compared: {'; '.join(differences)}",
            "compare sweeps with the same subject and the same `activations` section",
        )


def _compared(first: SweepRecord, other: SweepRecord) -> list[tuple[str, Any, Any]]:
    keys = ("kind", "model", "hook", "d_in", "digest")
    subject = [(f"subject {key}", first.subject.get(key), other.subject.get(key)) for key in keys]
    rows = [
        (f"{key.replace('_', ' ')}", first.bank.get(key), other.bank.get(key))
        for key in ("evaluation_rows", "evaluation_digest")
    ]
    return [*subject, *rows, ("loss", first.loss_name, other.loss_name), ("unit", first.loss_unit, other.loss_unit)]


def _held_out(source: Source) -> str | None:
    return source.confirmation.evaluation_digest if source.confirmation else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:12]}..."


def _record(records: Sequence[SweepRecord]) -> SweepRecord:
    """The first record with what the sweeps have in common, and everybody's architectures."""
    first, names = records[0], [record.name for record in records]
    statuses = {record.status for record in records}
    architectures = {f"{record.name}/{name}": plan for record in records for name, plan in record.architectures.items()}
    ranges = {
        f"{record.name}/{name}": value
        for record in records
        for name, value in (record.space.get("architectures") or {}).items()
    }
    return first.model_copy(
        update={
            "name": " + ".join(names),
            "description": f"Comparison of the sweeps {', '.join(names)}.",
            "status": first.status if len(statuses) == 1 else "interrupted",
            "space": {**_shared([record.space for record in records]), "architectures": ranges},
            "versions": _shared([record.versions for record in records]),
            "bank": _shared([record.bank for record in records]),
            "resources": _shared([record.resources for record in records]),
            "utilisation": _shared([record.utilisation for record in records]),
            "early_stopping": _shared([record.early_stopping for record in records]),
            "subject": first.subject,
            "reference": _reference([record.reference for record in records]),
            "architectures": architectures,
            "sessions": sum(record.sessions for record in records),
            "started_at": min(record.started_at for record in records),
            "ended_at": max(record.ended_at for record in records),
        }
    )


def _shared(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entries that all have with the same value."""
    first, *others = values
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _reference(references: Sequence[ReferenceRecord | None]) -> ReferenceRecord | None:
    known = [reference for reference in references if reference is not None]
    if not known:
        return None
    ranges = {reference.l0_range for reference in known}
    return known[0].model_copy(
        update={
            "l0": max(reference.l0 for reference in known),
            "delta_ce": max(reference.delta_ce for reference in known),
            "l0_range": known[0].l0_range if len(ranges) == 1 else None,
        }
    )


def _references(parts: Sequence[Source]) -> tuple[ImportedSae, ...]:
    """Every reference once: the rows that they were measured on are the same."""
    found: dict[str, ImportedSae] = {}
    for part in parts:
        for one in part.references:
            other = found.get(one.label)
            label = one.label if other is None or other.digest == one.digest else f"{part.record.name}/{one.label}"
            found[label] = one.model_copy(update={"label": label})
    return tuple(found.values())


def _confirmation(parts: Sequence[Source]) -> ConfirmSummary | None:
    found = [(part.record.name, part.confirmation) for part in parts if part.confirmation is not None]
    if not found:
        return None
    first = found[0][1]
    states: dict[str, int] = {}
    for _, summary in found:
        for state, count in summary.states.items():
            states[state] = states.get(state, 0) + count
    statuses = {summary.status for _, summary in found}
    return first.model_copy(
        update={
            "status": first.status if len(statuses) == 1 else "interrupted",
            "seeds": tuple(dict.fromkeys(seed for _, summary in found for seed in summary.seeds)),
            "states": states,
            "configurations": tuple(
                row.model_copy(update={"uid": f"{name}/{row.uid}", "architecture": f"{name}/{row.architecture}"})
                for name, summary in found
                for row in summary.configurations
            ),
        }
    )
