"""How the decoder rows lie to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.cosines import blocks, nearest, null_nearest
from vsae_search.analysis.drawing import histogram
from vsae_search.report.markup import Cell, Column, definitions, details, paragraph, table
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.material import Material

_BINS = 200
_EDGES = np.linspace(-1.0, 1.0, 41)
_NEIGHBOURS = 5
_LISTED = 20


class Similarity:
    """Cosines of all pairs of decoder rows, block by block, and the nearest neighbours of every latent."""

    name = "similarity"
    title = "Dictionary similarity"
    order = 40
    definitions = (
        Definition("latents", "latents", "Alive latents: those that fired on the sweep's evaluation rows."),
        Definition("mean_cosine", "1", "Mean cosine over all pairs of their decoder rows."),
        Definition("mean_abs_cosine", "1", "Mean |cosine| over the same pairs."),
        Definition("median_cosine", "1", "Median cosine over the same pairs, to 0.01."),
        Definition("max_cosine", "1", "Largest cosine of a pair."),
        Definition("mean_nearest", "1", "Mean over latents of the largest cosine to another latent."),
        Definition("null_mean_nearest", "1", "The same for as many random directions."),
        Definition("mean_alignment", "1", "Mean cosine between the encoder column and the decoder row of a latent."),
        Definition("norm_mean", "1", "Mean norm of the decoder rows."),
        Definition("norm_std", "1", "Standard deviation of the norms of the decoder rows."),
        Definition("pairs_histogram", "pairs", "Pairs per bin of the cosine; 200 equal bins from -1 to 1."),
        Definition("nearest_histogram", "latents", "Latents per bin of the largest cosine; edges in nearest_edges."),
        Definition("closest", "1", "The 20 closest pairs, each with its cosine."),
        Definition("neighbour_1", "latent", "Column: latent with the nearest decoder row; neighbour_2 and so on."),
        Definition("neighbour_1_cosine", "1", "Column: cosine to it."),
        Definition("alignment", "1", "Column: cosine between its encoder column and its decoder row."),
        Definition("decoder_norm", "1", "Column: norm of its decoder row, as trained."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Too few latents to have a pair."""
        return None if len(material.own.alive_A) > 1 else "Fewer than two latents are alive: there is no pair."

    def compute(self, material: Material) -> Found:
        """Two passes over the blocks: all pairs, and the neighbours."""
        own, unit_AD = material.own, material.own.alive_AD
        index_AK, cosine_AK = nearest(unit_AD, unit_AD, _NEIGHBOURS, itself=True)
        pairs = all_pairs(unit_AD)
        counts, _ = np.histogram(cosine_AK[:, 0], bins=_EDGES)
        numbers = {
            "latents": len(unit_AD),
            **pairs,
            "max_cosine": cosine_AK[:, 0].max(),
            "mean_nearest": cosine_AK[:, 0].mean(),
            "null_mean_nearest": null_nearest(len(unit_AD) - 1, unit_AD.shape[1], seed=material.seed),
            "mean_alignment": np.nanmean(material.align_F) if np.isfinite(material.align_F).any() else None,
            "norm_mean": own.norm_F.mean(),
            "norm_std": own.norm_F.std(),
            "nearest_histogram": counts,
            "nearest_edges": _EDGES,
            "closest": _closest(own.alive_A, index_AK[:, 0], cosine_AK[:, 0]),
        }
        columns: dict[str, NDArray[Any]] = {"alignment": material.align_F, "decoder_norm": own.norm_F}
        for rank in range(index_AK.shape[1]):
            neighbour_F = np.full(own.d_sae, -1, dtype=np.int64)
            cosine_F = np.full(own.d_sae, np.nan, dtype=np.float32)
            neighbour_F[own.alive_A], cosine_F[own.alive_A] = own.alive_A[index_AK[:, rank]], cosine_AK[:, rank]
            columns |= {f"neighbour_{rank + 1}": neighbour_F, f"neighbour_{rank + 1}_cosine": cosine_F}
        return Found(numbers, columns)

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """A histogram, and the closest pairs."""
        facts = definitions(
            [
                ("mean |cosine| of a pair", number(numbers["mean_abs_cosine"])),
                ("nearest neighbour, mean cosine", number(numbers["mean_nearest"])),
                ("the same for random directions", number(numbers["null_mean_nearest"])),
                ("encoder against decoder, mean cosine", number(numbers["mean_alignment"])),
                ("decoder norms", f"{number(numbers['norm_mean'])} ± {number(numbers['norm_std'])}"),
            ]
        )
        chart = histogram(
            numbers["nearest_edges"],
            numbers["nearest_histogram"],
            x="largest cosine of a decoder row with another",
            y="latents",
            alt=f"Histogram of each latent's largest cosine; the mean is {number(numbers['mean_nearest'])}.",
            mark=(numbers["null_mean_nearest"], "random"),
        )
        rows: list[list[Cell | str | Markup]] = [
            [f"{pair['latents'][0]} and {pair['latents'][1]}", Cell(number(pair["cosine"]), pair["cosine"])]
            for pair in numbers["closest"]
        ]
        columns = [Column("latents"), Column("cosine", numeric=True)]
        note = paragraph(
            f"Among {numbers['latents']} alive latents; five neighbours of each are in latents.csv.", "note"
        )
        return (
            facts,
            chart,
            note,
            details("closest pairs", table(columns, rows, caption="Closest pairs of decoder rows")),
        )


def all_pairs(unit_AD: NDArray[np.float32]) -> dict[str, Any]:
    """Return mean, mean |.| and median of the cosines of all pairs of different rows, and their histogram."""
    total = absolute = 0.0
    counts = np.zeros(_BINS, dtype=np.int64)
    for start, cosine_RA in blocks(unit_AD, unit_AD):
        # each pair once: only what lies to the right of the diagonal
        for row, cosine_A in enumerate(cosine_RA, start=start):
            cosine_A[: row + 1] = np.nan
        chosen = cosine_RA[~np.isnan(cosine_RA)]
        total += float(chosen.sum(dtype=np.float64))
        bins = ((chosen + 1) * (_BINS / 2)).astype(np.int64).clip(0, _BINS - 1)
        counts += np.bincount(bins, minlength=_BINS)
        absolute += float(np.abs(chosen, out=chosen).sum(dtype=np.float64))
    num_pairs = len(unit_AD) * (len(unit_AD) - 1) // 2
    middle = int(np.searchsorted(np.cumsum(counts), num_pairs / 2))
    return {
        "mean_cosine": total / num_pairs,
        "mean_abs_cosine": absolute / num_pairs,
        "median_cosine": round((middle + 0.5) * 2 / _BINS - 1, 3),
        "pairs_histogram": counts,
    }


def _closest(
    alive_A: NDArray[np.int64], neighbour_A: NDArray[np.int64], cosine_A: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """The closest pairs; each is the nearest neighbour of at least one of its members, so none is missed."""
    found: dict[tuple[int, int], float] = {}
    for position in np.argsort(-cosine_A, kind="stable"):
        first, second = sorted((int(alive_A[position]), int(alive_A[neighbour_A[position]])))
        found.setdefault((first, second), float(cosine_A[position]))
        if len(found) == _LISTED:
            break
    return [{"latents": pair, "cosine": cosine} for pair, cosine in found.items()]


ANALYSIS = Similarity()
