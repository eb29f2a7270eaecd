"""Where in the text a latent fires: windows of tokens around its strongest and around random firings.

Shapes: N rows, S sequences, T positions of a sequence, W tokens of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.analysis.codes import Codes

BEFORE, AFTER = 24, 8
TOP, RANDOM = 8, 8


@dataclass(frozen=True, eq=False)
class Places:
    """Where each row stands in the text.

    Attributes:
        tokens_ST: The sequences.
        sequence_N: Sequence of each row.
        position_N: Its position in there.
    """

    tokens_ST: NDArray[np.int32]
    sequence_N: NDArray[np.int64]
    position_N: NDArray[np.int64]

    @classmethod
    def of(cls, tokens_ST: NDArray[np.int32], kept_ST: NDArray[np.bool_]) -> Places:
        """Return the places of rows that were taken in order of sequence and position."""
        return cls(tokens_ST, *np.nonzero(kept_ST))


def strongest(codes: Codes, places: Places, latent: int, count: int) -> NDArray[np.int64]:
    """Return rows on which a latent is strongest, at most one of a sequence, strongest first; ties in order of rows."""
    row_E, value_E = codes.of(latent)
    order_E = np.argsort(-np.abs(value_E), kind="stable")
    _, first = np.unique(places.sequence_N[row_E[order_E]], return_index=True)
    return row_E[order_E[np.sort(first)]][:count]


def drawn(
    codes: Codes, places: Places, latent: int, count: int, *, avoid: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Return rows drawn at random from those on which a latent fires, one of a sequence, strongest first.

    Args:
        codes: The codes.
        places: Where rows stand.
        latent: The latent.
        count: Rows wanted; fewer when it fires in fewer sequences.
        avoid: Rows whose sequences are left out.
        seed: Seed of the draw; the latent is part of it.
    """
    row_E, value_E = codes.of(latent)
    free = ~np.isin(places.sequence_N[row_E], places.sequence_N[avoid])
    row_E, value_E = row_E[free], value_E[free]
    order_E = np.random.default_rng([seed, latent]).permutation(len(row_E))
    _, first = np.unique(places.sequence_N[row_E[order_E]], return_index=True)
    chosen = order_E[np.sort(first)][:count]
    return row_E[chosen[np.argsort(-np.abs(value_E[chosen]), kind="stable")]]


def window(codes: Codes, places: Places, latent: int, row: int) -> dict[str, Any]:
    """Return the tokens around a row, how strongly the latent fires on each, and which of them the row is."""
    sequence, position = int(places.sequence_N[row]), int(places.position_N[row])
    start = max(0, position - BEFORE)
    stop = min(places.tokens_ST.shape[1], position + AFTER + 1)
    strength_W = np.zeros(stop - start)
    row_E, value_E = codes.of(latent)
    first, last = np.searchsorted(row_E, [row - BEFORE, row + AFTER + 1])
    for near, value in zip(row_E[first:last], value_E[first:last], strict=True):
        if places.sequence_N[near] == sequence and start <= places.position_N[near] < stop:
            strength_W[places.position_N[near] - start] = value
    return {
        "sequence": sequence,
        "position": position,
        "strength": float(strength_W[position - start]),
        "focus": position - start,
        "ids": places.tokens_ST[sequence, start:stop],
        "strengths": strength_W.round(4),
    }


def fired_tokens(codes: Codes, places: Places, latent: int, count: int) -> list[tuple[int, float]]:
    """Return the tokens on which a latent fires most, with their shares of its total strength, largest first."""
    row_E, value_E = codes.of(latent)
    token_E = places.tokens_ST[places.sequence_N[row_E], places.position_N[row_E]]
    tokens, where = np.unique(token_E, return_inverse=True)
    mass = np.bincount(where, weights=np.abs(value_E))
    order = np.argsort(-mass, kind="stable")[:count]
    return [(int(tokens[index]), float(mass[index] / mass.sum())) for index in order]
