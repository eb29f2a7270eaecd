"""Whether latents fire too weakly for what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.drawing import histogram
from vsae_search.report.markup import definitions, paragraph
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from vsae_search.analysis.material import Material

_EDGES = np.linspace(0.0, 2.0, 41)


class Shrinkage:
    """The factor by which each latent alone would have to be multiplied for the least squared error."""

    name = "shrinkage"
    title = "Shrinkage"
    order = 30
    definitions = (
        Definition(
            "rescale",
            "1",
            "Column: factor a of one latent, all others left as they are, with the least squared error: "
            "1 + sum f n (e . w) / sum (f n)^2, with e = x - xhat, n the norm of the decoder row and w its direction. "
            "Above 1 the latent is shrunk.",
        ),
        Definition("median_rescale", "1", "Median of rescale over the firing latents."),
        Definition("shrunk_fraction", "fraction of firing latents", "Share with rescale > 1.05."),
        Definition("swollen_fraction", "fraction of firing latents", "Share with rescale < 0.95."),
        Definition(
            "global_rescale", "1", "Factor of the whole reconstruction with the least error, 1 / relative_bias."
        ),
        Definition(
            "histogram", "latents", "Firing latents per bin of rescale, ends included; edges in histogram_edges."
        ),
    )

    def unavailable(self, material: Material) -> str | None:
        """Nothing fires."""
        return None if (material.reading.square_F > 0).any() else "No latent fires on these rows."

    def compute(self, material: Material) -> Found:
        """One division per latent."""
        reading = material.reading
        firing_F = reading.square_F > 0
        rescale_F = np.full(len(firing_F), np.nan)
        rescale_F[firing_F] = 1 + reading.error_F[firing_F] / reading.square_F[firing_F]
        firing = rescale_F[firing_F]
        counts, _ = np.histogram(firing.clip(_EDGES[0], _EDGES[-1]), bins=_EDGES)
        bias = reading.overall.get("relative_bias")
        numbers = {
            "median_rescale": np.median(firing),
            "shrunk_fraction": np.mean(firing > 1.05),
            "swollen_fraction": np.mean(firing < 0.95),
            "global_rescale": 1 / bias if bias else None,
            "histogram": counts,
            "histogram_edges": _EDGES,
        }
        return Found(numbers, {"rescale": rescale_F})

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """A histogram."""
        facts = definitions(
            [
                ("median factor", number(numbers["median_rescale"])),
                ("shrunk (above 1.05)", percent(numbers["shrunk_fraction"])),
                ("swollen (below 0.95)", percent(numbers["swollen_fraction"])),
                ("factor of the whole reconstruction", number(numbers["global_rescale"])),
            ]
        )
        chart = histogram(
            numbers["histogram_edges"],
            numbers["histogram"],
            x="best factor of a latent, the others left as they are",
            y="latents",
            alt=f"Histogram of the best factor of each latent; the median is {number(numbers['median_rescale'])}.",
            mark=(1.0, "not shrunk"),
        )
        note = paragraph(
            "Each factor is the best for its latent alone. Where latents that overlap are all shrunk, multiplying them "
            "all would go too far; the factor of the whole reconstruction shows by how much.",
            "note",
        )
        return facts, chart, note


ANALYSIS = Shrinkage()
