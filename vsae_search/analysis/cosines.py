"""Cosines between dictionaries, a block at a time: no array of all pairs ever exists.

Shapes: Q query rows, B base rows, D their width, K neighbours, R rows of one block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

BLOCK_NUMBERS = 1 << 22
"""Most cosines that are held at the same time: 16 MB of float32."""
_MIN_NORM = 1e-12


def unit_rows(W_FD: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return rows divided by their norms, float32, and the norms [F]; a row of zeros stays zero."""
    rows_FD = np.asarray(W_FD, dtype=np.float32)
    norm_F = np.linalg.norm(rows_FD, axis=1)
    return rows_FD / np.maximum(norm_F, _MIN_NORM)[:, None], norm_F


def blocks(
    query_QD: NDArray[np.float32], base_BD: NDArray[np.float32], *, absolute: bool = False
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first row of a block and its cosines [R, B] with every base row, at most ``BLOCK_NUMBERS`` of them.

    Args:
        query_QD: Unit rows.
        base_BD: Unit rows.
        absolute: Whether a row and its opposite are the same, as in a signed code.
    """
    step = max(1, BLOCK_NUMBERS // max(1, len(base_BD)))
    for start in range(0, len(query_QD), step):
        cosine_RB = query_QD[start : start + step] @ base_BD.T
        yield start, np.abs(cosine_RB, out=cosine_RB) if absolute else cosine_RB


def nearest(
    query_QD: NDArray[np.float32],
    base_BD: NDArray[np.float32],
    k: int = 1,
    *,
    itself: bool = False,
    absolute: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the base rows with the largest cosines, and these, best first: both [Q, K] with K = min(k, others).

    Args:
        query_QD: Unit rows.
        base_BD: Unit rows.
        k: Neighbours wanted.
        itself: Whether query and base are the same rows, so that a row is no neighbour of its own.
        absolute: Whether a row and its opposite are the same.
    """
    kept = min(k, len(base_BD) - itself)
    index_QK, cosine_QK = np.zeros((len(query_QD), kept), dtype=np.int64), np.zeros((len(query_QD), kept), np.float32)
    if kept < 1:
        return index_QK, cosine_QK
    for start, cosine_RB in blocks(query_QD, base_BD, absolute=absolute):
        rows_R = np.arange(len(cosine_RB))
        if itself:
            cosine_RB[rows_R, start + rows_R] = -np.inf
        best_RK = np.argpartition(cosine_RB, -kept, axis=1)[:, -kept:]
        found_RK = np.take_along_axis(cosine_RB, best_RK, axis=1)
        order_RK = np.argsort(-found_RK, axis=1, kind="stable")
        part = slice(start, start + len(cosine_RB))
        index_QK[part] = np.take_along_axis(best_RK, order_RK, axis=1)
        cosine_QK[part] = np.take_along_axis(found_RK, order_RK, axis=1)
    return index_QK, cosine_QK


def random_directions(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Return independent uniform unit rows [count, D]: a dictionary that has learnt nothing."""
    rows = np.random.default_rng([seed, count, dimension]).standard_normal((count, dimension), dtype=np.float32)
    return unit_rows(rows)[0]


def null_nearest(count: int, dimension: int, *, seed: int, sample: int = 1024, absolute: bool = False) -> float:
    """Return the mean largest cosine of up to ``sample`` random directions to ``count`` others."""
    base_BD = random_directions(count, dimension, seed)
    query_QD = random_directions(min(sample, max(count, 1)), dimension, seed + 1)
    cosine_QK = nearest(query_QD, base_BD, absolute=absolute)[1]
    return float(cosine_QK.mean()) if cosine_QK.size else 0.0
