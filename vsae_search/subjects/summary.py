"""What a distribution over features achieves: marginals, correlations, L0, measured on one fixed sample.

Shapes: N rows, M features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.subjects.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vsae_search.subjects.features import Features

SAMPLE_ROWS = 100_000
_CHUNK_ROWS = 10_000
_LARGEST_MATRIX = 1024


def fixed_sample(features: Features, fingerprint: str, purpose: str) -> Iterator[NDArray[np.float32]]:
    """Yield ``SAMPLE_ROWS`` feature vectors in chunks; the same ones every time, and none of any split."""
    for index in range(SAMPLE_ROWS // _CHUNK_ROWS):
        yield features.sample(stream(fingerprint, purpose, index), _CHUNK_ROWS)


def achieved(features: Features, fingerprint: str) -> dict[str, Any]:
    """Measure marginals, correlations of presence, and L0.

    Returns:
        JSON values: ``sample_rows``; ``marginals`` (M numbers); ``phi`` (M x M binary correlations, ``None`` where a
        feature was constant on the sample; for more than 1024 features there is no matrix but ``None``); ``l0``, the
        mean number of features present in a row.
    """
    if features.count > _LARGEST_MATRIX:
        total_M = sum((chunk_NM > 0).sum(axis=0) for chunk_NM in fixed_sample(features, fingerprint, "summary"))
        return _record(np.asarray(total_M / SAMPLE_ROWS), None)
    both_MM = np.zeros((features.count, features.count))
    for features_NM in fixed_sample(features, fingerprint, "summary"):
        present_NM = (features_NM > 0).astype(np.float32)
        both_MM += present_NM.T @ present_NM  # counts below 2^24: exact in float32
    both_MM /= SAMPLE_ROWS
    return _record(np.diag(both_MM), _json_matrix(phi_matrix(both_MM)))


def _record(marginal_M: NDArray[np.float64], phi: list[list[float | None]] | None) -> dict[str, Any]:
    """Write the measurements as JSON values."""
    return {
        "sample_rows": SAMPLE_ROWS,
        "marginals": marginal_M.round(6).tolist(),
        "phi": phi,
        "l0": float(marginal_M.sum()),
    }


def phi_matrix(both_MM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return binary correlations from the probabilities of being present together (marginals on the diagonal)."""
    marginal_M = np.diag(both_MM)
    spread_M = np.sqrt(marginal_M * (1 - marginal_M))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((both_MM - np.outer(marginal_M, marginal_M)) / np.outer(spread_M, spread_M))


def _json_matrix(matrix_MM: NDArray[np.float64]) -> list[list[float | None]]:
    """Round a matrix for JSON, which knows no NaN."""
    return [[None if np.isnan(value) else round(value, 5) for value in row] for row in matrix_MM.tolist()]
