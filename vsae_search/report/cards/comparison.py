"""Every pair of architectures: how large the difference is, how sure, and then p, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.report.markup import Cell, Column, details, paragraph, swatch, table
from vsae_search.report.replicated import not_confirmed, seeds_text
from vsae_search.report.statistics import ALPHA, as_row, comparisons, scores
from vsae_search.report.text import DASH, counted, number, percent, points, ranged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

MOST_SHOWN = 15
"""Comparisons up to which the untested ones are shown too."""


class ComparisonCard:
    """Scores per architecture, the matrix of differences, and the pairs in detail."""

    name = "comparison"
    title = "Comparison of architectures"
    order = 36

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Scores and all comparisons, the hypervolume and every matched L0."""
        return {
            "alpha": ALPHA,
            "scores": scores(data),
            "comparisons": [as_row(one) for one in comparisons(data)],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """Fewer than two architectures with confirmed runs."""
        return not_confirmed(data, "A comparison with error bars", at_least=2)

    def render(self, data: ReportData) -> Sequence[Part]:
        """Scores, matrix, pairs."""
        found = data.cards["comparison"]
        areas = [row for row in found["comparisons"] if row["endpoint"] == "hypervolume"]
        levels = [row for row in found["comparisons"] if row["endpoint"] != "hypervolume"]
        parts: list[Part] = [paragraph(_summary(data, found))]
        if found["scores"]:
            parts.append(_scores(data, found["scores"]))
        if areas:
            parts += [_matrix(data, areas, found["scores"]), *_shown(areas)]
        if levels:
            parts.append(details("The same at matched L0", Markup().join(_shown(levels))))
        return (*parts, paragraph(_NOTE + (_BETWEEN_SWEEPS if data.sweeps else ""), "note"))


_NOTE = (
    "Differences are first minus second; for the hypervolume more is better, for delta-CE less. Intervals are 95 % t "
    "intervals, each for itself. P(better): probability that a run of the first beats one of the second. p: two-sided "
    "permutation test, corrected so that the probability of any false claim in this card is at most 5 %; where the "
    "number of seeds could not reach that whatever the data, no p is given. What varies between seeds is training; the "
    "configurations are those that the search found."
)
_BETWEEN_SWEEPS = (
    " Between sweeps, p is at least that of a second test, in which the trials of the two searches are dealt out anew: "
    "a difference that another seed of the search would explain is not claimed."
)


def _summary(data: ReportData, found: Mapping[str, Any]) -> str:
    rows = found["comparisons"]
    claimed = [row for row in rows if row["significant"]]
    refused = sum(row["p_value"] is None for row in rows)
    text = f"{counted(len(rows), 'comparison')} on held-out rows with {seeds_text(data)}: "
    text += f"{counted(len(claimed), 'difference')} can be claimed at a corrected p of at most {number(found['alpha'])}"
    return text + (f"; {refused} without a p-value." if refused else ".")


def _scores(data: ReportData, entries: Sequence[Mapping[str, Any]]) -> Markup:
    columns = [
        Column("architecture"),
        Column("seeds", numeric=True),
        Column("configurations", numeric=True),
        Column("hypervolume", numeric=True, hint="Mean share of the reference box that a run dominates"),
        Column("95 % interval", numeric=True),
        Column("IGD+", numeric=True, hint="Mean distance behind the pooled frontier, as a share of the box; 0 is none"),
        Column("epsilon", numeric=True, hint="Largest distance behind the pooled frontier, as a share of the box"),
    ]
    rows: list[list[Any]] = []
    for entry in entries:
        look, interval = data.architecture(entry["architecture"]), entry["interval"]
        rows.append(
            [
                Cell(swatch(look.colour, look.symbol) + look.name, sort=look.name),
                str(entry["num_runs"]),
                str(entry["num_configurations"]),
                Cell(percent(entry["hypervolume"], 1), sort=entry["hypervolume"]),
                DASH if interval is None else ranged(interval["low"], interval["high"], lambda end: percent(end, 1)),
                Cell(number(entry["igd_plus"]), sort=entry["igd_plus"]),
                Cell(number(entry["epsilon"]), sort=entry["epsilon"]),
            ]
        )
    return table(columns, rows, caption="Confirmed hypervolume, best first", sortable=True)


def _matrix(data: ReportData, rows: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> Markup:
    """Row minus column, in points of the reference box."""
    names = [entry["architecture"] for entry in entries]
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        for a, b, sign in ((row["a"], row["b"], 1), (row["b"], row["a"], -1)):
            mark = "*" if row["significant"] else ""
            cells[a, b] = DASH if row["difference"] is None else f"{points(sign * row['difference'])}{mark}"
    body: list[list[Any]] = []
    for a in names:
        look = data.architecture(a)
        body.append([swatch(look.colour, look.symbol) + a, *("" if a == b else cells.get((a, b), DASH) for b in names)])
    columns = [Column("row minus column"), *(Column(name, numeric=True) for name in names)]
    caption = "Difference of the mean hypervolume in percentage points of the reference box; * can be claimed"
    return table(columns, body, caption=caption)


def _pairs(rows: Sequence[Mapping[str, Any]]) -> Markup:
    columns = [
        Column("first"),
        Column("second"),
        Column("at"),
        Column("difference", numeric=True, hint="Mean of the first minus mean of the second"),
        Column("95 % interval", numeric=True),
        Column("typical", numeric=True, hint="Hodges-Lehmann estimate, little moved by one odd run"),
        Column("P(better)", numeric=True),
        Column("p", numeric=True, hint="Corrected over all comparisons of this card"),
        Column("runs"),
        Column("why no p"),
    ]
    return table(columns, [_row(row) for row in rows], caption="Pairs, effect size first", sortable=True)


def _row(row: Mapping[str, Any]) -> list[Any]:
    share = row["endpoint"] == "hypervolume"

    def shown(value: float | None) -> str:
        return points(value) if share else number(value)

    interval = row["interval"]
    runs = f"{row['num_runs_a']} pairs" if row["paired"] else f"{row['num_runs_a']} + {row['num_runs_b']}"
    p_value = DASH if row["p_value"] is None else f"{number(row['p_value'], 2)}{'*' if row['significant'] else ''}"
    return [
        row["a"],
        row["b"],
        "hypervolume" if share else f"L0 {number(row['l0'])}",
        Cell(shown(row["difference"]), sort=row["difference"]),
        DASH if interval is None else ranged(interval["low"], interval["high"], shown),
        Cell(shown(row["hodges_lehmann"]), sort=row["hodges_lehmann"]),
        Cell(number(row["superiority"], 2), sort=row["superiority"]),
        Cell(p_value, sort=row["p_value"]),
        runs,
        row["why_no_p"],
    ]


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """All rows when they are few, otherwise those that were tested: the page has to stay small enough to mail."""
    tested = [row for row in rows if row["p_value"] is not None]
    kept = rows if len(rows) <= MOST_SHOWN else tested
    rest = f"{counted(len(rows) - len(kept), 'untested comparison')} in tables/comparison.csv."
    parts = [_pairs(kept)] if kept else []
    return parts if len(kept) == len(rows) else [*parts, paragraph(rest, "note")]


CARD = ComparisonCard()
