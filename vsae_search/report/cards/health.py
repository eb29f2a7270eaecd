"""What to know before trusting the frontier: counts by state, and checks with the rule that raised them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.report.markup import Column, bullets, details, paragraph, swatch, table
from vsae_search.report.replicated import confirm_command, replicates
from vsae_search.report.text import counted, listed, number, percent
from vsae_search.search.records import REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow
    from vsae_search.report.source import Source
    from vsae_search.search.records import ArchitecturePlan

FEW_FRONTIER = 3  # a staircase of fewer steps says little about a range of L0
FEW_COMPLETED = 5
SEEDS_FOR_A_TEST = 4  # with 3 the smallest possible p of an unpaired test is 0.10
DEAD_ALARM = 0.5
DEAD_NOTE = 0.2
EDGE = 0.05  # of the length of a range, on its own scale
EDGE_SHARE = 1 / 3  # of the frontier trials
MAX_NOTES = 6  # more of them are folded away
STATES = ("completed", "stopped", "diverged", "failed")

Finding = dict[str, Any]


class HealthCard:
    """Counts by state per architecture, and every check that found something."""

    name = "health"
    title = "Health"
    order = 20

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:
        """Findings as ``{check, level, architecture, text}`` with level ``alarm``, ``warning`` or ``note``."""
        findings = [*_sweep_checks(data)]
        for entry in data.architectures:
            rows = [row for row in data.trials if row.architecture == entry.name]
            findings += _given_up(source.record.architectures.get(entry.name), entry)
            findings += _architecture_checks(data, entry, rows)
        rank = {"alarm": 0, "warning": 1, "note": 2}
        return {"findings": sorted(findings, key=lambda finding: rank[finding["level"]])}

    def unavailable(self, data: ReportData) -> str | None:
        """The sweep names no architecture and has no trial."""
        return None if data.architectures else "The sweep has no architecture yet."

    def render(self, data: ReportData) -> Sequence[Part]:
        """Findings, notes folded away when there are many, then the table of counts."""
        findings = data.cards["health"]["findings"]
        notes = [finding for finding in findings if finding["level"] == "note"]
        folded = notes if len(notes) > MAX_NOTES else []
        shown = [finding for finding in findings if finding not in folded]
        parts = [_list(shown) if shown else paragraph("No check found anything that needs attention.")]
        if folded:
            parts.append(details(counted(len(folded), "note"), _list(folded)))
        return *parts, _counts(data)


def _list(findings: Sequence[Finding]) -> Markup:
    return bullets(
        [
            Markup('<span class="level {}">{}</span> {}').format(finding["level"], finding["level"], finding["text"])
            for finding in findings
        ],
        "findings",
    )


def _finding(check: str, level: str, text: str, architecture: str | None = None) -> Finding:
    return {"check": check, "level": level, "architecture": architecture, "text": text}


def _sweep_checks(data: ReportData) -> list[Finding]:
    found = []
    if data.sweep.status != "completed":
        text = f"The sweep is {data.sweep.status}; this report shows the trials that have ended."
        found.append(_finding("status", "warning", text))
    if data.axes.reference is None:
        text = "No usable reference point was recorded, so no hypervolume can be measured."
        found.append(_finding("reference", "alarm", text))
    planned = {entry.name: entry.planned for entry in data.architectures if entry.planned is not None}
    if len(set(planned.values())) > 1:
        text = f"Budgets differ: {_each(planned)} trials. More trials find a better frontier by chance alone."
        found.append(_finding("budget", "warning", text))
    completed = {entry.name: entry.states.get("completed", 0) for entry in data.architectures}
    if len(set(planned.values())) <= 1 and completed and min(completed.values()) < 0.8 * max(completed.values()):
        text = f"Completed trials differ: {_each(completed)}. The frontiers rest on unequal numbers of trials."
        found.append(_finding("budget", "warning", text))
    if data.trials:
        found += _seeds(data)
    return found


def _seeds(data: ReportData) -> list[Finding]:
    """How much the confirmation can carry, or that there is none."""
    runs = replicates(data)
    if not runs:
        text = (
            "One seed per configuration: the picture has no error bars, and chosen points look a little too good. "
            f"For error bars run: {confirm_command(data)}"
        )
        return [_finding("seeds", "note", text)]
    few = [f"{name} ({one.num_runs})" for name, one in runs.items() if one.num_runs < SEEDS_FOR_A_TEST]
    found = []
    if few:
        text = f"Too few complete seeds for a test of two architectures, which takes {SEEDS_FOR_A_TEST}: {listed(few)}."
        found.append(_finding("seeds", "warning", text))
    states = data.confirmation.states if data.confirmation else {}
    for state in ("diverged", "failed"):
        if states.get(state):
            text = f"{counted(states[state], 'retraining')} of the confirmation {state}."
            found.append(_finding("confirmation", "warning", text))
    return found


def _each(counts: Mapping[str, int | None]) -> str:
    return listed([f"{name} {count}" for name, count in counts.items()])


def _architecture_checks(data: ReportData, entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> list[Finding]:
    frontier = data.frontier(entry.name)
    return [
        *_lost(entry, rows),
        *_numbers(entry, rows),
        *_few(entry, frontier),
        *_dead(entry, frontier),
        *_edges(entry, frontier),
    ]


def _lost(entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> list[Finding]:
    found = []
    for state in ("failed", "diverged"):
        count = entry.states.get(state, 0)
        if count:
            meaning = "lost to the infrastructure" if state == "failed" else _why_diverged(rows)
            level = "alarm" if count > len(rows) / 2 else "warning" if state == "failed" else "note"
            reasons = Counter(row.error.splitlines()[0][:160] for row in rows if row.state == state and row.error)
            why = "; ".join(f"{times} x {reason}" for reason, times in reasons.most_common(2))
            text = f"{entry.name}: {counted(count, 'trial')} {state} ({meaning}){': ' + why if why else ''}."
            found.append(_finding(state, level, text, entry.name))
    return found


def _given_up(plan: ArchitecturePlan | None, entry: ArchitectureSummary) -> list[Finding]:
    """An architecture whose budget was cancelled, because nothing had come of its first trials."""
    if plan is None or plan.given_up_after is None:
        return []
    rest = max(plan.trials - plan.given_up_after, 0)
    text = (
        f"{entry.name}: given up after {counted(plan.given_up_after, 'trial')}, none of which was completed; "
        f"{counted(rest, 'trial')} of its budget not run."
    )
    return [_finding("given_up", "alarm", text, entry.name)]


def _why_diverged(rows: Sequence[TrialRow]) -> str:
    refused = {(row.error or "").startswith(REFUSED) for row in rows if row.state == "diverged"}
    if refused == {True}:
        return "refused with these hyper-parameters"
    return "non-finite, out of memory or refused" if True in refused else "non-finite or out of memory"


def _numbers(entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> list[Finding]:
    found = []
    if entry.num_non_finite:
        count = counted(entry.num_non_finite, "completed trial")
        text = f"{entry.name}: {count} without a finite L0 and delta-CE, left out."
        found.append(_finding("non_finite", "warning", text, entry.name))
    far = sum(row.outside_reference for row in rows)
    if far:
        level = "warning" if far > len(rows) / 2 else "note"
        text = f"{entry.name}: {counted(far, 'trial')} on or beyond the reference point; these add no hypervolume."
        found.append(_finding("outside_reference", level, text, entry.name))
    if entry.hypervolume and entry.hypervolume.num_clipped:
        count = counted(entry.hypervolume.num_clipped, "trial")
        text = f"{entry.name}: {count} beyond the ideal point (L0 near zero or negative delta-CE), counted as on it."
        found.append(_finding("beyond_ideal", "note", text, entry.name))
    return found


def _few(entry: ArchitectureSummary, frontier: Sequence[TrialRow]) -> list[Finding]:
    completed = entry.states.get("completed", 0)
    if len(frontier) >= FEW_FRONTIER and completed >= FEW_COMPLETED:
        return []
    text = f"{entry.name}: {counted(len(frontier), 'frontier trial')} out of {completed} completed; too few to compare."
    return [_finding("few_points", "warning", text, entry.name)]


def _dead(entry: ArchitectureSummary, frontier: Sequence[TrialRow]) -> list[Finding]:
    shares = [share for row in frontier if (share := row.metrics.get("dead_fraction")) is not None]
    high = sum(share > DEAD_ALARM for share in shares)
    if not shares or (not high and statistics.median(shares) <= DEAD_NOTE):
        return []
    text = (
        f"{entry.name}: the median frontier SAE has {percent(statistics.median(shares))} dead latents; "
        f"{high} of {len(shares)} have more than {percent(DEAD_ALARM)}."
    )
    return [_finding("dead_latents", "alarm" if high > len(shares) / 2 else "warning", text, entry.name)]


def _edges(entry: ArchitectureSummary, frontier: Sequence[TrialRow]) -> list[Finding]:
    """Hyper-parameters whose best values crowd at an end of the searched range, so that it may be too narrow."""
    found = []
    for key, spelled in entry.ranges.items():
        for end, value, hits in edge_hits(spelled, [row.params.get(key) for row in frontier]):
            if hits >= 2 and hits >= EDGE_SHARE * len(frontier):
                text = (
                    f"{entry.name}: {hits} of {len(frontier)} frontier trials lie at the {end} end of {key} "
                    f"({number(value, 4)}); a wider range may hold better ones."
                )
                found.append(_finding("range_edge", "note", text, entry.name))
    return found


def edge_hits(spelled: Any, values: Sequence[Any]) -> list[tuple[str, float, int]]:
    """Count values close to either end of a range.

    Args:
        spelled: A range as in a search-space file; choices and constants have no ends.
        values: Values of a hyper-parameter; what is not a number is left out.

    Returns:
        ``("lower" | "upper", end, number of values within 5 % of the range's length)``.
    """
    kind, ends = next(iter(spelled.items())) if isinstance(spelled, dict) and len(spelled) == 1 else ("", None)
    if kind not in ("log", "uniform", "int") or not isinstance(ends, list) or len(ends) != 2:
        return []
    low, high = ends
    numeric = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if kind == "log":
        numeric = [math.log(value) for value in numeric if value > 0]
        start, stop = math.log(low), math.log(high)
    else:
        start, stop = float(low), float(high)
    margin = EDGE * (stop - start)
    return [
        ("lower", low, sum(value <= start + margin for value in numeric)),
        ("upper", high, sum(value >= stop - margin for value in numeric)),
    ]


def _counts(data: ReportData) -> Markup:
    columns = [
        Column("architecture"),
        Column("planned", numeric=True),
        *(Column(state, numeric=True) for state in STATES),
        Column("frontier", numeric=True, hint="Non-dominated completed trials"),
        Column("outside", numeric=True, hint="Completed trials on or beyond the reference point"),
        Column("non-finite", numeric=True, hint="Completed trials without a finite L0 and delta-CE"),
        Column("hypervolume", numeric=True, hint="Octaves of L0 times the unit of delta-CE"),
        Column("of the box", numeric=True, hint="Share of the box between the ideal and the reference point"),
    ]
    rows = [
        [
            swatch(entry.colour, entry.symbol) + entry.name,
            number(entry.planned),
            *(str(entry.states.get(state, 0)) for state in STATES),
            str(len(entry.frontier)),
            str(entry.hypervolume.num_outside) if entry.hypervolume else number(None),
            str(entry.num_non_finite),
            number(entry.hypervolume.value if entry.hypervolume else None, 4),
            percent(entry.hypervolume.normalised if entry.hypervolume else None),
        ]
        for entry in data.architectures
    ]
    return table(columns, rows, caption="Trials and hypervolume by architecture")


CARD = HealthCard()
