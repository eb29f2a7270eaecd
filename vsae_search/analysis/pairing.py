"""Pairing the latents of two dictionaries one to one, with the largest total cosine.

Shapes: A and B latents, D activation width, K pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from vsae_search.analysis.cosines import nearest
from vsae_search.evaluation.matching import match, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT_NUMBERS = 1 << 24
"""Cosines up to which all pairs are considered: 4096 latents against 4096."""
CANDIDATES = 16


class Pairing(NamedTuple):
    """A one-to-one map.

    Attributes:
        first_K: Latents of the first dictionary.
        second_K: Their partners in the second.
        cosine_K: Cosines of the pairs.
        exact: Whether all pairs were considered, or only each latent's nearest ones on either side.
    """

    first_K: NDArray[np.int64]
    second_K: NDArray[np.int64]
    cosine_K: NDArray[np.float64]
    exact: bool


def pair(
    first_AD: NDArray[np.float32],
    second_BD: NDArray[np.float32],
    *,
    absolute: bool = False,
    exact_numbers: int = EXACT_NUMBERS,
) -> Pairing:
    """Pair unit rows one to one.

    Up to ``exact_numbers`` cosines the assignment problem is solved over all pairs, and min(A, B) pairs come out.
    Beyond, it is solved over the 16 nearest rows of every row on either side, and rows for which nothing with a
    positive cosine is left stay without a partner. What that can lose are pairs with small cosines.

    Reference: Jonker and Volgenant, 1987; its sparse form is LAPJVsp of SciPy.
    """
    if len(first_AD) * len(second_BD) <= exact_numbers:
        cosine_AB = similarity((first_AD @ second_BD.T).astype(np.float64), signed=absolute)
        first_K, second_K = match(cosine_AB)
        return Pairing(first_K, second_K, cosine_AB[first_K, second_K], exact=True)
    first_E, second_E, cosine_E = _candidates(first_AD, second_BD, absolute)
    num_first, num_second = len(first_AD), len(second_BD)
    # a stand-in for every first row, worth a cosine of 0, so that a full matching exists; weights must not be 0
    rows_A = np.arange(num_first)
    weights = csr_array(
        (
            np.concatenate([cosine_E + 1.0, np.ones(num_first)]),
            (np.concatenate([first_E, rows_A]), np.concatenate([second_E, num_second + rows_A])),
        ),
        shape=(num_first, num_second + num_first),
    )
    rows_K, columns_K = min_weight_full_bipartite_matching(weights, maximize=True)
    real_K = columns_K < num_second
    first_K, second_K = rows_K[real_K].astype(np.int64), columns_K[real_K].astype(np.int64)
    cosine_K = np.asarray(weights[first_K, second_K], dtype=np.float64).ravel() - 1.0
    return Pairing(first_K, second_K, cosine_K, exact=False)


def _candidates(
    first_AD: NDArray[np.float32], second_BD: NDArray[np.float32], absolute: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of near rows with a positive cosine, each once."""
    there_AK, there_cosine_AK = nearest(first_AD, second_BD, CANDIDATES, absolute=absolute)
    back_BK, back_cosine_BK = nearest(second_BD, first_AD, CANDIDATES, absolute=absolute)
    first_E = np.concatenate([np.repeat(np.arange(len(first_AD)), there_AK.shape[1]), back_BK.ravel()])
    second_E = np.concatenate([there_AK.ravel(), np.repeat(np.arange(len(second_BD)), back_BK.shape[1])])
    cosine_E = np.concatenate([there_cosine_AK.ravel(), back_cosine_BK.ravel()]).astype(np.float64)
    _, once = np.unique(first_E * len(second_BD) + second_E, return_index=True)
    once = once[cosine_E[once] > 0]
    return first_E[once], second_E[once], cosine_E[once]
