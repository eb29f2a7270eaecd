"""Whether another training has found the same directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.cosines import nearest, null_nearest, random_directions
from vsae_search.analysis.drawing import histogram
from vsae_search.analysis.pairing import pair
from vsae_search.report.markup import Column, paragraph, table
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.material import Dictionary, Material

THRESHOLDS = (0.7, 0.9)
NULL_PAIRING = 1 << 22
"""Cosines up to which random dictionaries are paired too: without structure, pairing takes long."""
_EDGES = np.linspace(0.0, 1.0, 41)


class Stability:
    """The alive latents of this autoencoder against those of others: nearest ones both ways, and paired one to one."""

    name = "stability"
    title = "Stability"
    order = 70
    definitions = (
        Definition("latents", "latents", "Alive latents, on the evaluation rows of its sweep, of this and the other."),
        Definition(
            "nearest", "1", "Mean over the latents of this autoencoder of the largest cosine with one of the other."
        ),
        Definition("nearest_back", "1", "The same from the other to this one."),
        Definition("null_nearest", "1", "nearest between random dictionaries of these sizes."),
        Definition("null_nearest_back", "1", "nearest_back between random dictionaries of these sizes."),
        Definition("paired", "1", "Mean cosine when latents are paired one to one with the largest total cosine."),
        Definition("null_paired", "1", "The same for random dictionaries; left out beyond 2048 latents on each side."),
        Definition(
            "above_0.7, above_0.9",
            "fraction of pairs",
            "Share of the pairs, out of the smaller number of latents, with a larger cosine.",
        ),
        Definition(
            "method",
            "1",
            "all pairs: the exact assignment; near pairs: the assignment over the 16 nearest on either side.",
        ),
        Definition("match_1", "latent", "Column: partner in the first of the others; match_2 and so on; -1 for none."),
        Definition("match_1_cosine", "1", "Column: cosine with it."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Nothing to compare with."""
        if not material.others:
            return "Another autoencoder to compare with was not given; --against UID names one."
        if not len(material.own.alive_A) or not all(len(other.alive_A) for other in material.others):
            return "All latents of one of the autoencoders are dead."
        return None

    def compute(self, material: Material) -> Found:
        """Compare with each of the others."""
        absolute = material.reading.codes.signed
        compared: list[dict[str, Any]] = []
        columns: dict[str, NDArray[Any]] = {}
        for rank, other in enumerate(material.others, start=1):
            numbers, partner_F, cosine_F = compare(material.own, other, absolute=absolute, seed=material.seed)
            compared.append(numbers)
            columns |= {f"match_{rank}": partner_F, f"match_{rank}_cosine": cosine_F}
        return Found({"others": compared}, columns)

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """One table, and a histogram for each of the others."""
        columns = [
            Column("against"),
            *(Column(title, numeric=True) for title in ("latents", "nearest", "back", "paired")),
            *(Column(f"above {threshold}", numeric=True) for threshold in THRESHOLDS),
        ]
        rows = [
            [
                other["name"],
                str(other["latents"][1]),
                _beside(other, "nearest"),
                _beside(other, "nearest_back"),
                _beside(other, "paired"),
                *(percent(other[f"above_{threshold}"]) for threshold in THRESHOLDS),
            ]
            for other in numbers["others"]
        ]
        charts = [
            histogram(
                other["histogram_edges"],
                other["histogram"],
                x=f"cosine of a latent with its partner in {other['name']}",
                y="latents",
                alt=f"Histogram of the cosines of the pairs; their mean is {number(other['paired'])}.",
            )
            for other in numbers["others"]
        ]
        note = paragraph("In brackets: the same for random dictionaries of these sizes.", "note")
        return table(columns, rows, caption="Mean cosines with other autoencoders"), note, *charts


def compare(
    own: Dictionary, other: Dictionary, *, absolute: bool, seed: int
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.float64]]:
    """Compare the alive latents of two dictionaries.

    Returns:
        The numbers, the partner of each latent of ``own`` [F] (-1 for none), and the cosine with it [F].
    """
    first_AD, second_BD = own.alive_AD, other.alive_AD
    sizes, dimension = (len(first_AD), len(second_BD)), first_AD.shape[1]
    pairing = pair(first_AD, second_BD, absolute=absolute)
    null_paired = None
    if sizes[0] * sizes[1] <= NULL_PAIRING:
        randoms = (random_directions(size, dimension, seed + index) for index, size in enumerate(sizes))
        null_paired = pair(*randoms, absolute=absolute).cosine_K.mean()
    counts, _ = np.histogram(pairing.cosine_K.clip(0, 1), bins=_EDGES)
    numbers = {
        "name": other.name,
        "latents": sizes,
        "nearest": nearest(first_AD, second_BD, absolute=absolute)[1].mean(),
        "nearest_back": nearest(second_BD, first_AD, absolute=absolute)[1].mean(),
        "null_nearest": null_nearest(sizes[1], dimension, seed=seed, absolute=absolute),
        "null_nearest_back": null_nearest(sizes[0], dimension, seed=seed, absolute=absolute),
        "paired": pairing.cosine_K.sum() / min(sizes),
        "null_paired": null_paired,
        **{f"above_{limit}": np.count_nonzero(pairing.cosine_K > limit) / min(sizes) for limit in THRESHOLDS},
        "method": "all pairs" if pairing.exact else "near pairs",
        "histogram": counts,
        "histogram_edges": _EDGES,
    }
    partner_F, cosine_F = np.full(own.d_sae, -1, dtype=np.int64), np.full(own.d_sae, np.nan)
    latents_K = own.alive_A[pairing.first_K]
    partner_F[latents_K], cosine_F[latents_K] = other.alive_A[pairing.second_K], pairing.cosine_K
    return numbers, partner_F, cosine_F


def _beside(other: Mapping[str, Any], key: str) -> str:
    null = other[f"null_{key}"]
    return number(other[key]) + (f" ({number(null)})" if null is not None else "")


ANALYSIS = Stability()
