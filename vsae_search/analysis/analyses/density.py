"""How often each latent fires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.drawing import histogram
from vsae_search.evaluation.metrics.sparsity import HISTOGRAM_EDGES
from vsae_search.report.markup import definitions, paragraph
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from vsae_search.analysis.material import Material

DENSE, FREQUENT = 0.10, 0.01
_LISTED = 50


class Density:
    """Firing density of every latent, on the deterministic code that L0 is counted on."""

    name = "density"
    title = "Feature sparsity"
    order = 10
    definitions = (
        Definition("rows", "rows", "Rows that were read."),
        Definition("l0", "latents/row", "Mean number of latents that fire on a row."),
        Definition("dead", "latents", "Latents that fire on none of these rows."),
        Definition("dead_fraction", "fraction of latents", "dead / F."),
        Definition(
            "unseen_below",
            "fraction of rows",
            "Upper end of a 95 % interval for the density of a dead latent, 1 - 0.05^(1/rows): with fewer rows more "
            "latents look dead.",
        ),
        Definition("frequent_fraction", "fraction of latents", "Latents that fire on more than 1 % of rows, / F."),
        Definition("dense_fraction", "fraction of latents", "Latents that fire on more than 10 % of rows, / F."),
        Definition("median_density", "fraction of rows", "Median density of the latents that fire."),
        Definition("histogram", "latents", "Firing latents per bin of log10 density; edges in histogram_edges."),
        Definition("densest", "latents", "Up to 50 latents that fire on more than 10 % of rows, densest first."),
        Definition("density", "fraction of rows", "Column: share of rows on which the latent fires."),
        Definition("mean_strength", "scaled activation", "Column: mean of f ||w|| over rows on which it fires."),
        Definition("max_strength", "scaled activation", "Column: largest f ||w||."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Always there."""
        del material
        return None

    def compute(self, material: Material) -> Found:
        """Count."""
        codes = material.reading.codes
        density_F = codes.fired_F / codes.num_rows
        firing = density_F[density_F > 0]
        counts, _ = np.histogram(np.log10(firing).clip(HISTOGRAM_EDGES[0]), bins=HISTOGRAM_EDGES)
        order_F = np.argsort(-density_F, kind="stable")
        with np.errstate(invalid="ignore"):
            mean_F = codes.total(codes.by_latent.data) / np.where(codes.fired_F > 0, codes.fired_F, np.nan)
        largest_F = np.full(codes.d_sae, np.nan)
        alive_A = codes.alive_A
        largest_F[alive_A] = (
            np.maximum.reduceat(codes.by_latent.data, codes.by_latent.indptr[alive_A]) if len(alive_A) else []
        )
        numbers = {
            "rows": codes.num_rows,
            "l0": codes.fired_F.sum() / codes.num_rows,
            "dead": np.count_nonzero(density_F == 0),
            "dead_fraction": np.mean(density_F == 0),
            "unseen_below": 1 - 0.05 ** (1 / codes.num_rows),
            "frequent_fraction": np.mean(density_F > FREQUENT),
            "dense_fraction": np.mean(density_F > DENSE),
            "median_density": np.median(firing) if len(firing) else None,
            "histogram": counts,
            "histogram_edges": HISTOGRAM_EDGES,
            "densest": [
                {"latent": latent, "density": density_F[latent]}
                for latent in order_F[:_LISTED]
                if density_F[latent] > DENSE
            ],
        }
        columns = {"density": density_F, "mean_strength": mean_F, "max_strength": largest_F}
        return Found(numbers, columns)

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """A histogram and the counts."""
        facts = definitions(
            [
                ("L0", f"{number(numbers['l0'])} latents per row"),
                ("dead", f"{numbers['dead']} latents ({percent(numbers['dead_fraction'])})"),
                ("above 1 % of rows", percent(numbers["frequent_fraction"])),
                ("above 10 % of rows", percent(numbers["dense_fraction"])),
                ("median density", number(numbers["median_density"])),
            ]
        )
        chart = histogram(
            numbers["histogram_edges"],
            numbers["histogram"],
            x="share of rows on which a latent fires",
            y="latents",
            alt=f"Histogram of log10 density of the firing latents; the median is {number(numbers['median_density'])}.",
            shown=_as_power,
            mark=(-1.0, "dense"),
        )
        note = paragraph(
            f"Dead means that it fires on none of {numbers['rows']} rows. A latent that fires on less than "
            f"{number(numbers['unseen_below'])} of all rows may well be among them (95 %).",
            "note",
        )
        return facts, chart, note


def _as_power(log10: float) -> str:
    return number(10.0**log10, 1)


ANALYSIS = Density()
