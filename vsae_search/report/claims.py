"""What confirmed runs allow to be said, as sentences for the verdict: order, claims, and what cannot be claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.replicated import seeds_text
from vsae_search.report.statistics import comparisons, scores
from vsae_search.report.text import counted, listed, number, percent, points, ranged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vsae_search.frontier import Comparison
    from vsae_search.report.data import ReportData

NAMED = 5
"""Architectures, and comparisons, that one sentence names."""
Statement = dict[str, Any]


def confirmed_statements(data: ReportData) -> list[Statement]:
    """Sentences on confirmed runs, most important first; empty when nothing is confirmed."""
    ranked, pairs = scores(data), comparisons(data)
    areas = [one for one in pairs if one.endpoint == "hypervolume"]
    levels = [one for one in pairs if one.endpoint == "delta_ce"]
    claims = [*_against_the_best(ranked, areas), *_at_levels(levels), *_refused(pairs)]
    return [*_order(data, ranked), *_in_part(data), *claims]


def _statement(kind: str, text: str, architecture: str | None = None) -> Statement:
    return {"kind": kind, "architecture": architecture, "text": text}


def _order(data: ReportData, ranked: Sequence[Mapping[str, Any]]) -> list[Statement]:
    if not ranked:
        return []
    first, *others = ranked
    text = (
        f"On held-out rows with {seeds_text(data)}, {first['architecture']} "
        f"{'has the largest mean hypervolume:' if others else 'has a mean hypervolume of'} {_area(first)} of the "
        "reference box"
    )
    if others:
        names = [f"{entry['architecture']} ({_area(entry)})" for entry in others[: NAMED - 1]]
        more = len(ranked) - NAMED
        text += f", followed by {listed([*names, counted(more, 'other')] if more > 0 else names)}"
    left_out = [entry.name for entry in data.architectures if entry.name not in {row["architecture"] for row in ranked}]
    if left_out:
        text += f". Not confirmed: {listed(left_out)}"
    return [_statement("confirmed_order", f"{text}.", first["architecture"])]


def _in_part(data: ReportData) -> list[Statement]:
    """Whose frontier was not trained again as a whole: its hypervolume is smaller than it earned."""
    confirmed = {row.uid for row in data.confirmation.configurations} if data.confirmation is not None else set()
    found = []
    for entry in data.architectures:
        inside = [row.uid for row in data.frontier(entry.name) if not row.outside_reference]
        again = sum(uid in confirmed for uid in inside)
        if 0 < again < len(inside):
            found.append(f"{entry.name} ({again} of {len(inside)})")
    if not found:
        return []
    text = f"Only a part of the frontier was trained again, and the hypervolume is that of the part: {listed(found)}."
    return [_statement("in_part", text)]


def _area(entry: Mapping[str, Any]) -> str:
    interval = entry["interval"]
    text = percent(entry["hypervolume"], 1)
    if interval is None:
        return text
    return f"{text}, interval {ranged(interval['low'], interval['high'], lambda end: percent(end, 1))}"


def _against_the_best(ranked: Sequence[Mapping[str, Any]], areas: Sequence[Comparison]) -> list[Statement]:
    """Whom the best one beats, and whom it cannot be said to beat."""
    if not ranked:
        return []
    best = ranked[0]["architecture"]
    order = {entry["architecture"]: place for place, entry in enumerate(ranked)}
    own = sorted((one for one in areas if best in (one.a, one.b)), key=lambda one: order[_other(one, best)])
    beaten = [one for one in own if one.winner == best]
    open_ones = [one for one in own if one.p_value is not None and one.winner != best]
    found = []
    if beaten:
        found.append(_statement("claim", f"{best} beats {_named(beaten, best)}.", best))
    if open_ones:
        text = f"No difference in hypervolume can be claimed between {best} and {_named(open_ones, best)}."
        found.append(_statement("no_claim", text, best))
    return found


def _named(pairs: Sequence[Comparison], best: str) -> str:
    texts = [f"{_other(one, best)} ({_difference(one, best)})" for one in pairs[:NAMED]]
    more = len(pairs) - NAMED
    return listed([*texts, counted(more, "other")] if more > 0 else texts)


def _other(one: Comparison, name: str) -> str:
    return one.b if one.a == name else one.a


def _difference(one: Comparison, best: str) -> str:
    """Effect size first, then the interval, then p."""
    sign = 1 if one.a == best else -1
    parts = [] if one.difference is None else [f"{points(sign * one.difference)} points of the box"]
    if one.interval is not None and one.interval.low is not None and one.interval.high is not None:
        low, high = sorted((sign * one.interval.low, sign * one.interval.high))
        parts.append(f"95 % interval {points(low)} to {points(high)}")
    return ", ".join([*parts, f"p {number(one.p_value, 2)}"])


def _at_levels(levels: Sequence[Comparison]) -> list[Statement]:
    """One sentence per winner and loser: at which matched L0 the difference can be claimed."""
    won: dict[tuple[str, str], list[Comparison]] = {}
    for one in levels:
        if one.winner is not None:
            won.setdefault((one.winner, _other(one, one.winner)), []).append(one)
    found = []
    for (winner, loser), ones in sorted(won.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        sizes = [abs(one.difference) for one in ones if one.difference is not None]
        at = listed([number(one.l0) for one in ones])
        size = number(sizes[0], 2) if len(sizes) == 1 else f"{number(min(sizes), 2)} to {number(max(sizes), 2)}"
        p_value = number(max(one.p_value for one in ones if one.p_value is not None), 2)
        text = f"At matched L0 {at}, {winner} has a lower delta-CE than {loser}, by {size} (p at most {p_value})."
        found.append(_statement("matched", text, winner))
    return found


def _refused(pairs: Iterable[Comparison]) -> list[Statement]:
    """Why no p-values are given, when that is because of the number of seeds."""
    pairs = list(pairs)
    reasons = list(dict.fromkeys(one.why_no_p for one in pairs if one.smallest_p > one.alpha and one.why_no_p))
    if not reasons:
        return []
    nothing = all(one.smallest_p > one.alpha for one in pairs)
    return [_statement("no_p", f"{'No difference is tested' if nothing else 'Not all are tested'}: {reasons[0]}.")]
