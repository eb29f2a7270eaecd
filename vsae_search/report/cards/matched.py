"""delta_ce at matched L0: what each architecture costs at the sparsity that the reader cares about."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vsae_search.frontier import Replicates, matched
from vsae_search.report.markup import Cell, Column, paragraph, swatch, table
from vsae_search.report.replicated import confirm_command, matched_levels, replicates, search_points, seeds_text
from vsae_search.report.text import DASH, number, ranged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source

_SEARCH = 0  # stands for the one run of the search; it never leaves this file


class MatchedCard:
    """One row per architecture, one column per L0."""

    name = "matched"
    title = "delta-CE at matched L0"
    order = 38

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Values of L0 and, per architecture, what its confirmed runs and its search frontier attain there."""
        levels, runs = matched_levels(data), replicates(data)
        return {
            "levels": levels,
            "confirmed": [asdict(one) for entry in runs.values() for one in matched(entry, levels)],
            "search": [
                asdict(one)
                for entry in data.architectures
                if len(points_N2 := search_points(data, entry.name))
                for one in matched(Replicates(entry.name, (_SEARCH,), points_N2[None]), levels)
            ],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No L0 is reached."""
        if not data.cards["matched"]["levels"]:
            return "No frontier reaches any of the L0 at which architectures are compared."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """The confirmed table, or the one of the search with a warning."""
        found = data.cards["matched"]
        confirmed = {(row["architecture"], row["l0"]): row for row in found["confirmed"]}
        searched = {(row["architecture"], row["l0"]): row for row in found["search"]}
        columns = [
            Column("architecture"),
            *(Column(f"L0 {number(level)}", numeric=True) for level in found["levels"]),
        ]
        rows: list[list[Any]] = []
        for entry in data.architectures:
            cells = [_cell(confirmed, searched, entry.name, level) for level in found["levels"]]
            rows.append([Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name), *cells])
        unit = f" in {data.axes.loss_unit}" if data.axes.loss_unit else ""
        caption = f"Lowest delta-CE{unit} among the SAEs of a run with at most that L0"
        return table(columns, rows, caption=caption, sortable=True), paragraph(_note(data, bool(confirmed)), "note")


def _cell(
    confirmed: Mapping[tuple[str, float], Mapping[str, Any]],
    searched: Mapping[tuple[str, float], Mapping[str, Any]],
    name: str,
    level: float,
) -> Cell:
    row = confirmed.get((name, level))
    if row is None:
        value = searched[name, level]["mean"] if (name, level) in searched else None
        text = DASH if value is None else number(value)
        return Cell(Markup("<em>{}</em>").format(text) if confirmed and value is not None else text, sort=value)
    interval = row["mean_interval"]
    if row["mean"] is None:
        return Cell(f"{row['num_reached']} of {len(row['values'])} runs reach it")
    spread = "" if interval is None else f" ({ranged(interval['low'], interval['high'], number)})"
    return Cell(f"{number(row['mean'])}{spread}", sort=row["mean"])


def _note(data: ReportData, confirmed: bool) -> str:
    read = "Read from the staircase: nothing between two trained SAEs is claimed. "
    if confirmed:
        return (
            f"{read}Mean over {seeds_text(data)} on held-out rows with the 95 % t interval of the mean; in italics, "
            "architectures that have not been confirmed, with the score of the search, which is too good."
        )
    return (
        f"{read}These are scores of the search: one seed, and chosen for being good, so they carry no interval and are "
        f"too good. For intervals on held-out rows run: {confirm_command(data)}"
    )


CARD = MatchedCard()
