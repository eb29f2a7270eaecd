"""The frontier trials that stand for their architecture where a figure cannot show all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vsae_search.report.families import MOST_IN_ONE

if TYPE_CHECKING:
    from vsae_search.report.data import ArchitectureSummary, ReportData, TrialRow

LOW, MIDDLE, HIGH = "lowest L0", "middle", "highest L0"


class Example(NamedTuple):
    """A frontier trial with its place on the frontier."""

    entry: ArchitectureSummary
    trial: TrialRow
    place: str


def examples(data: ReportData) -> tuple[Example, ...]:
    """The middle trial of every frontier by L0 and, unless there are too many architectures, both ends."""
    entries = [entry for entry in data.architectures if entry.frontier]
    found = []
    for entry in entries:
        own = data.frontier(entry.name)
        places = {(len(own) - 1) // 2: MIDDLE}
        if len(entries) <= MOST_IN_ONE:
            places = {0: LOW, len(own) - 1: HIGH} | places
        found += [Example(entry, own[index], place) for index, place in sorted(places.items())]
    return tuple(found)


def which(data: ReportData) -> str:
    """A sentence that says which trials `examples` chose."""
    if sum(bool(entry.frontier) for entry in data.architectures) > MOST_IN_ONE:
        return "One frontier trial of each architecture: the middle one by L0."
    return "Of each architecture the frontier trials of lowest, middle and highest L0."
