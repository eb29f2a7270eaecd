"""What the sweep says, in sentences with numbers.

With confirmed runs, order, claims and ranges come from them alone: new seeds on held-out rows. Without, they come from
the trials of the search, and the verdict says that those scores are optimistic. Rules, all on completed trials:

* *Order*: architectures by normalised hypervolume.
* *Ranges*: whose staircase is lowest at which L0, from the sparsest useful trial to the reference L0.
* *Not sparse*: the sparsest frontier SAE of an architecture fires at least a fifth of its latents per token and,
  where the true L0 is known, at least twice the true number. The second condition keeps small dictionaries apart:
  one firing latent out of five is sparse when one feature is present.
* *Recovery* (subjects with known features): the frontier trial whose L0 is nearest to the true L0 on the log2 axis.
  When it is more than an octave away the sentence says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.report.claims import confirmed_statements
from vsae_search.report.markup import bullets, details, paragraph
from vsae_search.report.replicated import box, confirm_command, frontier_points, stretches
from vsae_search.report.text import counted, listed, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow
    from vsae_search.report.source import Source

DENSE_SHARE = 0.2
DENSE_TIMES_TRUE_L0 = 2.0
NAMED = 5
"""Architectures named in the first sentence."""
SHOWN = {"range": 5, "recovery": 5, "matched": 4}
"""Statements of a kind that are shown at once."""


class VerdictCard:
    """Best statements about each architecture."""

    name = "verdict"
    title = "Verdict"
    order = 10

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Statements as ``{kind, architecture, text}``, most important first."""
        confirmed = confirmed_statements(data)
        order = confirmed or _order(data)
        statements = [*order, *_ranges(data), *_not_sparse(data), *_recovery(data), *_empty(data)]
        return {
            "basis": "confirmed" if confirmed else "search",
            "statements": statements,
            "caution": _caution(data, bool(confirmed)),
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No statement can be made."""
        if not data.cards["verdict"]["statements"]:
            return "No trial has ended yet, so there is nothing to say."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """The first statement large, the others as a list, then what the numbers cannot carry."""
        verdict = data.cards["verdict"]
        first, *others = verdict["statements"]
        shown, folded = _split(others)
        parts = [paragraph(first["text"], "lead"), bullets(shown, "statements") if shown else Markup()]
        if folded:
            parts.append(details(f"{counted(len(folded), 'more statement')}", bullets(folded, "statements")))
        return *parts, paragraph(verdict["caution"], "note")


def _split(statements: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What is read at once, and what is folded away when many architectures have something to say."""
    counts: dict[str, int] = {}
    shown: list[str] = []
    folded: list[str] = []
    for statement in statements:
        kind = statement["kind"]
        counts[kind] = counts.get(kind, 0) + 1
        (shown if counts[kind] <= SHOWN.get(kind, len(statements)) else folded).append(statement["text"])
    return shown, folded


def _statement(kind: str, text: str, architecture: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "architecture": architecture, "text": text}


def _order(data: ReportData) -> list[dict[str, Any]]:
    scored = [(entry.hypervolume.normalised, entry.name) for entry in data.architectures if entry.hypervolume]
    ranked = sorted(((score, name) for score, name in scored if score > 0), key=lambda pair: (-pair[0], pair[1]))
    if not ranked:
        return []
    first, name = ranked[0]
    text = f"{name} has the largest hypervolume: it dominates {percent(first)} of the reference box"
    if ranked[1:]:
        followers = [f"{other} ({percent(score)})" for score, other in ranked[1:NAMED]]
        more = len(ranked) - NAMED
        text += f", followed by {listed([*followers, counted(more, 'other')] if more > 0 else followers)}"
    return [_statement("order", f"{text}.", name)]


def _ranges(data: ReportData) -> list[dict[str, Any]]:
    corners = box(data)
    basis, points = frontier_points(data)
    owned = stretches(points, corners) if corners else ()
    if not owned or sum(bool(len(points_M2)) for points_M2 in points.values()) < 2:
        return []
    spans: dict[tuple[str, ...], list[str]] = {}
    octaves: dict[tuple[str, ...], float] = {}
    for part in owned:
        spans.setdefault(part.owners, []).append(f"{number(part.low)} to {number(part.high)}")
        octaves[part.owners] = octaves.get(part.owners, 0.0) + math.log2(part.high / part.low)
    total = sum(octaves.values())
    result = []
    for owners in sorted(octaves, key=lambda names: (-octaves[names], names)):
        verb = "has" if len(owners) == 1 else "share"
        what = "any frontier" if basis == "search" else "half of the seeds of any architecture"
        share = f" ({percent(octaves[owners] / total)} of the octaves of L0 that {what} reaches)"
        text = f"{listed(owners)} {verb} the lowest delta-CE at L0 {listed(spans[owners])}{share if total else ''}."
        result.append(_statement("range", text, owners[0] if len(owners) == 1 else None))
    winners = {name for part in owned for name in part.owners}
    losers = [name for name, points_M2 in points.items() if len(points_M2) and name not in winners]
    if losers:
        verb = "is" if len(losers) == 1 else "are"
        result.append(_statement("range", f"{listed(losers)} {verb} not the best at any L0."))
    return result


def _not_sparse(data: ReportData) -> list[dict[str, Any]]:
    result = []
    for entry in data.architectures:
        rows = data.frontier(entry.name)
        if rows and is_dense(rows[0], data.sweep.true_l0):
            sparsest = rows[0]
            assert sparsest.l0 is not None
            assert sparsest.d_sae is not None
            truth = f", true L0 is {number(data.sweep.true_l0)}" if data.sweep.true_l0 is not None else ""
            text = (
                f"{entry.name} does not become sparse: its sparsest frontier SAE still fires {number(sparsest.l0)} of "
                f"{sparsest.d_sae} latents per token ({percent(sparsest.l0 / sparsest.d_sae)}){truth}."
            )
            result.append(_statement("not_sparse", text, entry.name))
    return result


def is_dense(row: TrialRow, true_l0: float | None) -> bool:
    """Whether a trial fires too large a share of its latents to be called sparse.

    Args:
        row: A trial with an L0; False when its number of latents is not known.
        true_l0: True number of active features per row, where it is known.
    """
    if row.l0 is None or row.d_sae is None:
        return False
    far_above_truth = true_l0 is None or row.l0 >= DENSE_TIMES_TRUE_L0 * true_l0
    return row.l0 / row.d_sae >= DENSE_SHARE and far_above_truth


def _recovery(data: ReportData) -> list[dict[str, Any]]:
    true_l0 = data.sweep.true_l0
    if not true_l0 or true_l0 <= 0:
        return []
    found = [(entry, _nearest(data.frontier(entry.name), true_l0)) for entry in data.architectures]
    scored = [(entry, row) for entry, row in found if row is not None and row.metrics.get("mmcs") is not None]
    scored.sort(key=lambda pair: -(pair[1].metrics["mmcs"] or 0.0))
    return [_statement("recovery", _recovery_text(entry, row, true_l0), entry.name) for entry, row in scored]


def _nearest(rows: Sequence[TrialRow], true_l0: float) -> TrialRow | None:
    usable = [row for row in rows if row.l0 is not None and row.l0 > 0]
    return min(usable, key=lambda row: (_octaves(row, true_l0), row.uid), default=None)


def _octaves(row: TrialRow, true_l0: float) -> float:
    return abs(math.log2((row.l0 or 0.0) / true_l0))


def _recovery_text(entry: ArchitectureSummary, row: TrialRow, true_l0: float) -> str:
    text = f"Nearest to the true L0 of {number(true_l0)}, {entry.name} (trial {row.uid}, L0 {number(row.l0)}) "
    if _octaves(row, true_l0) > 1:
        text = (
            f"{entry.name} has no frontier trial within an octave of the true L0 of {number(true_l0)}; "
            f"its nearest one (trial {row.uid}, L0 {number(row.l0)}) "
        )
    null, recovered = row.metrics.get("null_mmcs"), row.metrics.get("recovered_fraction")
    against = f" (random dictionary: {number(null)})" if null is not None else ""
    share = f" and recovers {percent(recovered)} of the features" if recovered is not None else ""
    return f"{text}reaches MMCS {number(row.metrics['mmcs'])}{against}{share}."


def _empty(data: ReportData) -> list[dict[str, Any]]:
    return [
        _statement("empty", f"{entry.name} has no frontier: {_outcome(entry)}.", entry.name)
        for entry in data.architectures
        if not entry.frontier
    ]


def _outcome(entry: ArchitectureSummary) -> str:
    if not entry.states:
        return "none of its trials has ended"
    return "its trials ended as " + listed([f"{state} ({count})" for state, count in entry.states.items()])


def _caution(data: ReportData, confirmed: bool) -> str:
    if confirmed:
        text = (
            "Order, claims and ranges are of retrained configurations on held-out rows. What another search would have "
            "found is not in the intervals."
        )
    else:
        text = (
            "These are scores of the search, and they are optimistic: every configuration was trained with one seed, "
            "and the frontier holds those that came out best. So these differences carry no error bar; for one, run: "
            f"{confirm_command(data)}."
        )
    if data.confirmation is not None and data.confirmation.status != "completed":
        text += f" The confirmation is {data.confirmation.status}."
    if data.sweep.status != "completed":
        missing = sum(max((entry.planned or 0) - sum(entry.states.values()), 0) for entry in data.architectures)
        text += f" The sweep is {data.sweep.status}: {counted(missing, 'planned trial')} had not ended."
    return text


CARD = VerdictCard()
