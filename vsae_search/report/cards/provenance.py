"""How to run the sweep again, and how to check that it was this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.markup import block, code, definitions, paragraph
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData

_LONGEST_VALUE = 300


class ProvenanceCard:
    """Command, search space, versions, digests and the scales of the axes."""

    name = "provenance"
    title = "Reproduce"
    order = 900

    def unavailable(self, data: ReportData) -> str | None:  # noqa: ARG002 - part of the protocol
        """Always available."""
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """Command and search space, then facts."""
        origin, parts = data.provenance, []
        if origin.space_yaml:
            parts += [
                paragraph("Save the search space below under the name used in the command, then run:"),
                block(origin.command, "Command"),
                block(origin.space_yaml, "Search space"),
            ]
        else:
            parts.append(paragraph("The search-space file is not in the sweep directory; its digest is below."))
        return (*parts, definitions([*([] if data.experiment else _axes(data)), *_sweep(data), *_digests(data)]))


def _axes(data: ReportData) -> list[tuple[str, str | Markup]]:
    axes = data.axes
    unit = f" {axes.loss_unit}" if axes.loss_unit else ""
    facts: list[tuple[str, str | Markup]] = [("delta-CE", f"{axes.loss_name}{f' in{unit}' if unit else ''}")]
    for label, point, note in (
        ("reference point", axes.reference, f" ({axes.reference_source})"),
        ("ideal point", axes.ideal, ""),
    ):
        value = f"L0 {number(point.l0, 4)}, delta-CE {number(point.delta_ce, 4)}{unit}{note}" if point else "not known"
        facts.append((label, value))
    return [*facts, ("axis scales", f"{axes.l0_scale} L0, {axes.delta_ce_scale} delta-CE")]


def _sweep(data: ReportData) -> list[tuple[str, str | Markup]]:
    sweep = data.sweep
    dirty = {True: " (with local changes)", False: "", None: ""}[sweep.git_dirty]
    return [
        ("started", sweep.started_at or "not recorded"),
        ("ended", sweep.ended_at or "not yet"),
        ("sessions", str(sweep.sessions)),
        ("seed", str(sweep.seed)),
        ("commit", code(sweep.git_commit + dirty) if sweep.git_commit else "not recorded"),
        ("versions", _pairs(sweep.versions)),
        ("resources", _pairs(sweep.resources)),
        ("utilisation", _parts(sweep.utilisation)),
        ("early stopping", _pairs(sweep.early_stopping)),
        ("report version", data.provenance.report_version),
    ]


def _digests(data: ReportData) -> list[tuple[str, str | Markup]]:
    return [
        ("search-space digest", code(data.sweep.digest)),
        ("activation bank", _pairs(data.sweep.bank)),
        *((f"sha256 of {name}", code(digest)) for name, digest in sorted(data.provenance.checksums.items())),
    ]


def _pairs(values: dict[str, Any]) -> str:
    text = ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value not in (None, "", [], {}))
    return text or "not recorded"


def _parts(used: dict[str, Any]) -> str:
    """How much of the machines the trials were given, and how much of them they used."""
    words = [
        f"{'GPU' if name.startswith('gpu') else 'CPU'} {name[4:]} {percent(used[name], 0)}"
        for name in ("cpu_planned", "cpu_training", "cpu_busy", "gpu_planned", "gpu_busy", "gpu_memory")
        if isinstance(used.get(name), int | float)
    ]
    return f"{', '.join(words)} (last session)" if words else "not recorded"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = number(value, 4) if isinstance(value, int | float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."


CARD = ProvenanceCard()
