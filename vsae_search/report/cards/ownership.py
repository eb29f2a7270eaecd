"""The pooled frontier and who owns it: which architecture is lowest at which L0, and what would be lost without it."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from vsae_search.frontier import hypervolume, pooled_frontier
from vsae_search.report.card import Figure
from vsae_search.report.chart import plane, scales, steps
from vsae_search.report.markup import Cell, Column, paragraph, swatch, table
from vsae_search.report.replicated import box, frontier_points, seeds_text, stretches
from vsae_search.report.text import listed, number, percent
from vsae_search.report.view import box_text, frontier_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vsae_search.frontier.hypervolume import Point
    from vsae_search.frontier.ownership import Segment
    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source


class OwnershipCard:
    """Stretches of L0 with their owners, on confirmed medians where there are any."""

    name = "ownership"
    title = "Pooled frontier and who owns it"
    order = 32

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Stretches, pooled corners and, per architecture, octaves owned and hypervolume that it alone adds."""
        corners = box(data)
        if corners is None:
            return {"basis": "search", "stretches": [], "pooled": [], "architectures": []}
        reference, ideal = corners
        basis, points = frontier_points(data)
        owned = stretches(points, corners)
        pooled = {max(l0, ideal[0]): level for l0, level in pooled_frontier(points.values()).tolist()}
        return {
            "basis": basis,
            "stretches": [{"low": part.low, "high": part.high, "owners": part.owners} for part in owned],
            "pooled": [[l0, level] for l0, level in pooled.items() if l0 < reference[0]],
            "architectures": [_share(name, points, owned, reference, ideal) for name in points],
        }

    def unavailable(self, data: ReportData) -> str | None:
        """No reference point, or nothing inside it."""
        if box(data) is None:
            return "Without a reference point it is not known where a frontier ends."
        if not data.cards["ownership"]["stretches"]:
            return "No completed trial lies inside the reference point, so nothing is owned."
        return None

    def render(self, data: ReportData) -> Sequence[Part]:
        """The pooled frontier in the colours of its owners, then two tables."""
        found = data.cards["ownership"]
        view = frontier_view(data)
        assert view is not None, "stretches come from drawable trials"
        basis = (
            f"From what half of the seeds attain on held-out rows ({seeds_text(data)})."
            if found["basis"] == "confirmed"
            else "From the trials of the search, one seed each."
        )
        figure = Figure(
            spec={"data": _traces(data, found, view.floor), "layout": plane(data, view)},
            alt="Pooled frontier by owner. " + "; ".join(_in_words(part) for part in found["stretches"]) + ".",
            caption=f"{basis} {box_text(data)}",
            controls=scales(view),
            height_px=460 + 14 * max(0, len(found["architectures"]) - 6),
        )
        return figure, _stretches(found), _shares(data, found), paragraph(_NOTE, "note")


_NOTE = (
    "Alone adds: the share of the reference box that no other architecture dominates. Octaves owned: doublings of "
    "L0, from the ideal L0 on, over which it has the lowest delta-CE; shared stretches count for each owner."
)


def _share(
    name: str, points: Mapping[str, NDArray[Any]], owned: Sequence[Segment], reference: Point, ideal: Point
) -> dict[str, Any]:
    everyone = hypervolume(pooled_frontier(points.values()), reference, ideal=ideal).normalised
    rest = pooled_frontier([values for other, values in points.items() if other != name])
    mine = [part for part in owned if name in part.owners]
    return {
        "architecture": name,
        "octaves": math.fsum(math.log2(part.high / part.low) for part in mine),
        "alone_adds": max(everyone - hypervolume(rest, reference, ideal=ideal).normalised, 0.0),
    }


def _traces(data: ReportData, found: Mapping[str, Any], floor: float) -> list[dict[str, Any]]:
    traces, named = [], set()
    for part in found["stretches"]:
        entry = data.architecture(part["owners"][0])
        inside = [corner for corner in found["pooled"] if part["low"] <= corner[0] < part["high"]]
        x, y = steps(inside, part["high"], floor)
        if not x:
            continue
        label = escape(" = ".join(part["owners"]))
        traces.append(
            {
                **{"type": "scatter", "x": x, "y": y, "mode": "lines+markers", "name": label, "legendgroup": label},
                "line": {"shape": "hv", "color": entry.colour, "width": 3},
                "marker": {"symbol": entry.symbol, "size": [9] * (len(x) - 1) + [0], "color": entry.colour},
                "hovertemplate": "L0 %{x:.4g}<br>delta-CE %{y:.4g}",
                "showlegend": label not in named,
            }
        )
        named.add(label)
    return traces


def _in_words(part: Mapping[str, Any]) -> str:
    return f"L0 {number(part['low'])} to {number(part['high'])}: {listed(part['owners'])}"


def _stretches(found: Mapping[str, Any]) -> Any:
    columns = [Column("L0 from", numeric=True), Column("to", numeric=True), Column("octaves", numeric=True)]
    rows: list[list[Any]] = [
        [
            Cell(number(part["low"], 4), sort=part["low"]),
            Cell(number(part["high"], 4), sort=part["high"]),
            number(math.log2(part["high"] / part["low"])),
            listed(part["owners"]),
        ]
        for part in found["stretches"]
    ]
    return table([*columns, Column("lowest delta-CE")], rows, caption="Stretches of L0 and their owners")


def _shares(data: ReportData, found: Mapping[str, Any]) -> Any:
    rows: list[list[Any]] = []
    for share in sorted(found["architectures"], key=lambda entry: (-entry["octaves"], entry["architecture"])):
        entry = data.architecture(share["architecture"])
        rows.append(
            [
                Cell(swatch(entry.colour, entry.symbol) + entry.name, sort=entry.name),
                Cell(number(share["octaves"]), sort=share["octaves"]),
                Cell(percent(share["alone_adds"]), sort=share["alone_adds"]),
            ]
        )
    columns = [Column("architecture"), Column("octaves owned", numeric=True), Column("alone adds", numeric=True)]
    return table(columns, rows, caption="What each architecture adds to the pooled frontier", sortable=True)


CARD = OwnershipCard()
