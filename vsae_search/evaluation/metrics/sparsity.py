"""How often latents fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Values
    from vsae_search.evaluation.summary import Summary

HISTOGRAM_EDGES = np.linspace(-7.0, 0.0, 29)  # log10 density, four bins per decade
_DENSE, _FREQUENT = 0.10, 0.01


class Sparsity(Metric):
    """Mean number of firing latents per row, and how firing is spread over the latents.

    A latent fires on a row where its code is not zero (above zero, for a non-negative code). Its density is the share
    of evaluation rows on which it fires. Dead means never on these rows: with fewer rows, more latents look dead.
    With every latent dead L0 is 0 and the dead fraction 1. Shapes: F latents.

    Reference: Bricken et al., "Towards Monosemanticity", 2023 (L0, density histogram); the thresholds for frequent
    and dense latents are 1 % and 10 % of rows.
    """

    infos = (
        MetricInfo("l0", "latents/row", "lower", "Mean over rows of the number of latents that fire."),
        MetricInfo("dead_fraction", "fraction of latents", "lower", "Share of latents that never fire."),
        MetricInfo(
            "frequent_fraction", "fraction of latents", "none", "Share of latents that fire on more than 1 % of rows."
        ),
        MetricInfo(
            "dense_fraction", "fraction of latents", "lower", "Share of latents that fire on more than 10 % of rows."
        ),
        MetricInfo("density", "array", "none", "Share of rows on which each latent fires, [F]."),
        MetricInfo(
            "density_histogram",
            "array",
            "none",
            "Latents per bin of log10 density, dead ones left out; densities below 1e-7 are in the first bin.",
        ),
        MetricInfo("density_histogram_edges", "array", "none", "Edges of those bins in log10 density."),
    )

    def result(self, summary: Summary) -> Values:
        """Return the numbers; the counts were kept for everybody."""
        density_F = summary.fired_F / summary.num_rows
        log_density = np.log10(density_F[density_F > 0])
        histogram, _ = np.histogram(np.maximum(log_density, HISTOGRAM_EDGES[0]), bins=HISTOGRAM_EDGES)
        return {
            "l0": float(summary.fired_F.sum() / summary.num_rows),
            "dead_fraction": float(np.mean(density_F == 0)),
            "frequent_fraction": float(np.mean(density_F > _FREQUENT)),
            "dense_fraction": float(np.mean(density_F > _DENSE)),
            "density": density_F,
            "density_histogram": histogram,
            "density_histogram_edges": HISTOGRAM_EDGES,
        }
