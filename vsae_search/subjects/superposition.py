"""How a toy model packs its features: norms, dimensionality, interference.

Shapes: D hidden dimensions, M features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dimensionality(W_DM: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of a hidden dimension that each feature has for itself.

    D_i = ||W_i||^2 / sum_j (W_i / ||W_i|| . W_j)^2, where the sum includes j = i: 1 for a feature that is orthogonal
    to all others, 1/2 for an antipodal pair, 2/5 in a pentagon, and 0 for a feature with no weight at all.

    Reference: Elhage et al., "Toy Models of Superposition", 2022, section "The Geometry of Superposition".

    Args:
        W_DM: Embedding, one column per feature.

    Returns:
        D_i [M]; their sum is at most the number of hidden dimensions.
    """
    gram_MM = W_DM.T.astype(np.float64) @ W_DM.astype(np.float64)
    square_M = np.diag(gram_MM)
    overlap_M = (gram_MM**2).sum(axis=1)
    return np.asarray(np.divide(square_M**2, overlap_M, out=np.zeros_like(overlap_M), where=overlap_M > 0))


def features_per_dimension(W_DM: NDArray[np.floating]) -> float:
    """Return ||W||_F^2 / D: about how many features share one hidden dimension (1 without superposition)."""
    return float((W_DM.astype(np.float64) ** 2).sum() / len(W_DM))


def interference(W_DM: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how much the other features load on each one: sum over j != i of (W_i / ||W_i|| . W_j)^2.

    0 for a feature with no weight.
    """
    gram_MM = W_DM.T.astype(np.float64) @ W_DM.astype(np.float64)
    square_M = np.diag(gram_MM)
    others_M = (gram_MM**2).sum(axis=1) - square_M**2
    return np.asarray(np.divide(others_M, square_M, out=np.zeros_like(others_M), where=square_M > 0))
