"""Which of the known figures the toy models form, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.report.markup import Column, paragraph, strong, table
from vsae_search.report.text import counted, listed, number
from vsae_search.report.toy_models import nothing_trained, settings_of, stored_toys
from vsae_search.subjects.toy_geometry import (
    ALIGNED_SHARE,
    ANTIPODAL_COSINE,
    ORTHOGONAL_COSINE,
    POLYGON_DEGREES,
    axis_shares,
    represented,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.card import Part
    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source
    from vsae_search.report.toy_models import StoredToy

FIGURES = {
    "antipodal_pairs": ("antipodal pairs", "cosine"),
    "orthogonal_pairs": ("orthogonal pairs", "cosine"),
    "polygon": ("regular polygon", "degrees off"),
    "privileged_basis": ("features along axes", "share"),
}
"""What a figure is called, and what is measured."""
_NOTE = (
    f"Antipodal: the cosine of every pair below {ANTIPODAL_COSINE:g}. Orthogonal: within {ORTHOGONAL_COSINE:g} of 0. "
    f"Polygon: every angle between neighbours within {POLYGON_DEGREES:g} degrees. Along axes: at least "
    f"{ALIGNED_SHARE:g} of every represented feature's squared norm on one axis. Measured is the worst pair, angle or "
    "feature. Some seeds end in a local minimum, with a higher loss; a figure counts as found when the seed with the "
    "lowest loss shows it. Features with \u2016W\u1d62\u2016\u00b2 above 1/2 count as represented."
)


class FoundCard:
    """A table with a row for every toy model."""

    name = "found"
    title = "Known figures"
    order = 10

    def compute(self, source: Source, data: ReportData) -> Mapping[str, Any]:  # noqa: ARG002 - part of the protocol
        """Per toy model what was expected, how many seeds show it, and the numbers of the one with the lowest loss."""
        settings = settings_of(source)
        return {"rows": [_row(arm, settings[arm].expect, toys) for arm, toys in stored_toys(source).items()]}

    def unavailable(self, data: ReportData) -> str | None:
        """Nothing was trained."""
        return nothing_trained(data)

    def render(self, data: ReportData) -> Sequence[Part]:
        """A sentence and a table."""
        rows = data.cards["found"]["rows"]
        return (
            paragraph(_verdict(rows)),
            table(_COLUMNS, [_cells(row) for row in rows], caption="Toy models and what they form"),
            paragraph(_NOTE, "note"),
        )


def _row(arm: str, expect: str | None, toys: Sequence[StoredToy]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": arm, "expect": expect, "seeds": len(toys)}
    if not toys:
        return row
    best = toys[0]
    shares_M = axis_shares(best.arrays["W"])[represented(best.arrays["W"])]
    return {
        **row,
        "uid": best.record.uid,
        "measured": best.record.metrics.get("geometry_measured"),
        "found": bool(best.record.metrics.get("geometry_found")) if expect else None,
        "found_seeds": sum(toy.record.metrics.get("geometry_found", 0.0) > 0 for toy in toys) if expect else None,
        "represented": int(best.record.metrics["features_represented"]),
        "features": int(best.arrays["W"].shape[1]),
        "features_per_dimension": best.record.metrics["features_per_dimension"],
        "mean_dimensionality": best.record.metrics["mean_dimensionality"],
        "mean_axis_share": float(shares_M.mean()) if shares_M.size else None,
        "fvu": best.record.metrics["toy_fvu"],
        "losses": [toy.record.metrics["toy_loss"] for toy in toys],
    }


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    asked = [row for row in rows if row["expect"]]
    if not asked:
        return "No known figure was looked for."
    missing = [row["model"] for row in asked if not row.get("found")]
    text = f"{len(asked) - len(missing)} of {counted(len(asked), 'known figure')} found."
    return f"{text} Not found: {listed(missing)}." if missing else text


_COLUMNS = [
    Column("toy model"),
    Column("expected"),
    Column("found", hint="By the seed with the lowest loss"),
    Column("seeds", numeric=True, hint="Seeds that show the figure, of all"),
    Column("measured", hint="The worst pair, angle or feature, of the seed with the lowest loss"),
    Column("represented", numeric=True),
    Column("mean D", numeric=True, hint="Mean dimensionality of the represented features"),
    Column("on one axis", numeric=True, hint="Mean largest share of a represented feature's squared norm on one axis"),
    Column("FVU", numeric=True, hint="Share of the weighted variance of the inputs that is left unexplained"),
    Column("loss", hint="Lowest and highest over the seeds"),
]


def _cells(row: Mapping[str, Any]) -> list[Any]:
    if not row["seeds"]:
        return [row["model"], "", "", "0", *[""] * (len(_COLUMNS) - 4)]
    name, what = FIGURES.get(row["expect"] or "", ("nothing", ""))
    found = row["found"]
    return [
        row["model"],
        name,
        "" if found is None else strong("yes") if found else "no",
        f"{row['found_seeds']} of {row['seeds']}" if row["expect"] else str(row["seeds"]),
        f"{what} {number(row['measured'])}" if what else "",
        f"{row['represented']} of {row['features']}",
        number(row["mean_dimensionality"]),
        number(row["mean_axis_share"]),
        number(row["fvu"]),
        f"{number(min(row['losses']))} to {number(max(row['losses']))}",
    ]


CARD = FoundCard()
