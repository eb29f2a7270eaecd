"""Which latents fire together more often than chance."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.drawing import histogram
from vsae_search.report.markup import Cell, Column, definitions, paragraph, table
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.codes import Codes
    from vsae_search.analysis.material import Material

MIN_TOGETHER = 10
"""Rows on which both must fire for a pair to be scored: phi of a pair seen once is 1."""
MAX_WORK = 1 << 31
"""Pairs of firings, over all rows, that are counted; of denser codes some rows are drawn."""
_BLOCK_NUMBERS = 1 << 22
_LISTED = 30
_EDGES = np.linspace(0.0, 1.0, 21)


class Pairs(NamedTuple):
    """Scored pairs of one block: latents, rows on which both fire, and their scores."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    together: NDArray[np.float64]
    phi: NDArray[np.float64]
    npmi: NDArray[np.float64]


class Pair(NamedTuple):
    """One of them."""

    first: int
    second: int
    together: float
    phi: float
    npmi: float


class Coactivation:
    """Counts of joint firing, kept sparse, and what is left of them after chance."""

    name = "coactivation"
    title = "Co-activation"
    order = 50
    definitions = (
        Definition("rows", "rows", "Rows on which joint firing was counted."),
        Definition("pairs", "pairs", "Pairs of latents that both fire on at least 10 of them."),
        Definition(
            "phi",
            "1",
            "Correlation of the two firing indicators: (n c_ij - c_i c_j) / sqrt(c_i (n - c_i) c_j (n - c_j)), with c "
            "counts of n rows; 0 for independent latents, 1 for latents that only fire together.",
        ),
        Definition(
            "npmi", "1", "log(p_ij / (p_i p_j)) / -log p_ij; 0 for independent latents, 1 for inseparable ones."
        ),
        Definition("jaccard", "1", "Rows on which both fire / rows on which either fires."),
        Definition("cosine", "1", "Cosine of the two decoder rows."),
        Definition("top", "pairs", "The 30 pairs with the largest phi."),
        Definition("partner", "latent", "Column: latent with the largest phi; -1 where no pair was scored."),
        Definition("partner_phi", "1", "Column: its phi."),
        Definition("strong_fraction", "fraction of firing latents", "Share whose partner has phi > 0.5."),
        Definition("histogram", "latents", "Firing latents per bin of partner_phi; edges in histogram_edges."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Too few latents to have a pair."""
        return None if len(material.reading.codes.alive_A) > 1 else "Fewer than two latents fire: there is no pair."

    def compute(self, material: Material) -> Found:
        """Score all pairs, block by block."""
        fired = firing_indicators(material.reading.codes, material.seed)
        partner_F = np.full(fired.shape[1], -1, dtype=np.int64)
        phi_F = np.full(fired.shape[1], np.nan)
        top: list[Pair] = []
        num_pairs = 0
        for pairs in scored_pairs(fired):
            _update_partners(pairs, partner_F, phi_F)
            once = pairs.first < pairs.second
            num_pairs += int(once.sum())
            top = heapq.nlargest(
                _LISTED, [*top, *_best(pairs, once)], key=lambda pair: (pair.phi, -pair.first, -pair.second)
            )
        scored = phi_F[np.isfinite(phi_F)]
        counts, _ = np.histogram(scored.clip(0, 1), bins=_EDGES)
        firing = len(material.reading.codes.alive_A)
        numbers = {
            "rows": fired.shape[0],
            "pairs": num_pairs,
            "top": [_described(material, fired, pair) for pair in top],
            "strong_fraction": np.count_nonzero(scored > 0.5) / firing,
            "histogram": counts,
            "histogram_edges": _EDGES,
        }
        return Found(numbers, {"partner": partner_F, "partner_phi": phi_F})

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """A histogram and the top pairs."""
        facts = definitions(
            [
                (
                    "pairs that fire together",
                    f"{numbers['pairs']} on at least {MIN_TOGETHER} of {numbers['rows']} rows",
                ),
                ("latents with a partner of phi > 0.5", percent(numbers["strong_fraction"])),
            ]
        )
        chart = histogram(
            numbers["histogram_edges"],
            numbers["histogram"],
            x="largest phi of a latent with another",
            y="latents",
            alt="Histogram of each latent's largest phi.",
        )
        names = ("phi", "npmi", "jaccard", "cosine")
        columns = [
            Column("latents"),
            Column("rows", numeric=True, hint="Rows on which both fire"),
            *(Column(name, numeric=True) for name in names),
        ]
        rows: list[list[Cell | str | Markup]] = [
            [
                f"{pair['latents'][0]} and {pair['latents'][1]}",
                Cell(str(pair["together"]), pair["together"]),
                *(Cell(number(pair[name]), pair[name]) for name in names),
            ]
            for pair in numbers["top"]
        ]
        note = paragraph("phi and npmi are corrected for chance: 0 says that the two fire independently.", "note")
        return facts, chart, table(columns, rows, caption="Pairs with the largest phi"), note


def firing_indicators(codes: Codes, seed: int) -> csr_array:
    """Return 1 where a latent fires [N, F]; of a dense code, only rows drawn at random, as many as can be counted."""
    count_N = np.diff(codes.by_row.indptr).astype(np.float64)
    work = float((count_N**2).sum())
    ones = np.ones(len(codes.by_row.data), dtype=np.float32)
    fired = csr_array((ones, codes.by_row.indices, codes.by_row.indptr), shape=codes.by_row.shape)
    if work <= MAX_WORK:
        return fired
    keep = max(1, int(codes.num_rows * MAX_WORK / work))
    return fired[np.sort(np.random.default_rng([seed, 3]).choice(codes.num_rows, size=keep, replace=False))]


def scored_pairs(fired: csr_array) -> Iterator[Pairs]:
    """Yield every ordered pair of different latents that fire together often enough, in blocks of first latents.

    A block is a product of sparse matrices with at most ``_BLOCK_NUMBERS`` entries; all counts together never exist.
    """
    num_rows, d_sae = fired.shape
    by_latent = fired.tocsc()
    count_F = np.diff(by_latent.indptr).astype(np.float64)
    step = max(1, _BLOCK_NUMBERS // d_sae)
    for start in range(0, d_sae, step):
        product = (by_latent[:, start : start + step].T @ fired).tocoo()
        first, second = product.row.astype(np.int64) + start, product.col.astype(np.int64)
        keep = (product.data >= MIN_TOGETHER) & (first != second)
        first, second, together = first[keep], second[keep], product.data[keep].astype(np.float64)
        a, b = count_F[first], count_F[second]
        spread = a * (num_rows - a) * b * (num_rows - b)
        phi = np.where(spread > 0, (num_rows * together - a * b) / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)
        # a pair that fires on every row carries no information: log p is 0, and so is the score
        minus_log = -np.log(together / num_rows)
        pmi = np.log(num_rows * together / (a * b))
        npmi = np.where(minus_log > 0, pmi / np.where(minus_log > 0, minus_log, 1.0), 0.0)
        yield Pairs(first, second, together, phi, npmi)


def _best(pairs: Pairs, chosen: NDArray[np.bool_]) -> list[Pair]:
    """The chosen pairs with the largest phi."""
    order = np.flatnonzero(chosen)[np.argsort(-pairs.phi[chosen], kind="stable")[:_LISTED]]
    return [Pair(int(pairs.first[e]), int(pairs.second[e]), *(float(column[e]) for column in pairs[2:])) for e in order]


def _update_partners(pairs: Pairs, partner_F: NDArray[np.int64], phi_F: NDArray[np.float64]) -> None:
    """Note the best partner of each first latent; all its pairs are in one block."""
    order = np.lexsort((pairs.second, -pairs.phi, pairs.first))
    first, where = np.unique(pairs.first[order], return_index=True)
    partner_F[first], phi_F[first] = pairs.second[order][where], pairs.phi[order][where]


def _described(material: Material, fired: csr_array, pair: Pair) -> dict[str, Any]:
    either = fired[:, [pair.first]].sum() + fired[:, [pair.second]].sum() - pair.together
    unit_FD = material.own.unit_FD
    return {
        "latents": [pair.first, pair.second],
        "together": int(pair.together),
        "phi": pair.phi,
        "npmi": pair.npmi,
        "jaccard": pair.together / either,
        "cosine": unit_FD[pair.first] @ unit_FD[pair.second],
    }


ANALYSIS = Coactivation()
