"""Mean, scale and norms of the training rows, in one float64 pass that is split over the shards.

Each shard reports sums over its own rows, so the rows never travel to the driver. Sums are taken over the rows as
stored: a bank in bf16 is normalised by what its trials will really see.

Shapes: N rows, D d_in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.activations.codec import Dtype, decode_rows
from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HIGH_NORM = 10.0
"""A row is of high norm when its norm exceeds this many times the median norm of its shard.

Rows of zeros (a sparse toy sample in which no feature is present) are left out of the median."""

_CHUNK_BYTES = 1 << 19
"""Rows are summed in chunks of about this many bytes of float64, so that each pass after the first stays in cache."""


@dataclass(frozen=True)
class RowSums:
    """Sums over the rows of one shard, float64.

    Attributes:
        num_rows: Rows summed.
        sum_D: Sum of the rows [D].
        sum_square: Sum of squared norms.
        max_norm: Largest norm.
        nonzero_rows: Rows that are not all zeros.
        median_norm: Median norm of those; 0 if there are none.
        high_rows: Rows of high norm (see ``HIGH_NORM``).
        high_square: Their part of ``sum_square``.
    """

    num_rows: int
    sum_D: NDArray[np.float64]
    sum_square: float
    max_norm: float
    nonzero_rows: int
    median_norm: float
    high_rows: int
    high_square: float


@dataclass(frozen=True)
class BankStatistics:
    """What the rows of a bank have in common.

    Attributes:
        scale: sqrt(d / E||x||^2): multiplied by it, rows have a mean squared norm of d.
        mean_D: Mean row, unscaled.
        max_norm: Largest norm, unscaled.
        median_norm: Median over shards (weighted by rows) of the median norm of rows that are not zero, unscaled.
        high_norm_fraction: Fraction of rows of high norm.
        high_norm_energy: Their fraction of E||x||^2. Near 1 the scale describes a few outliers and not the rows.
    """

    scale: float
    mean_D: tuple[float, ...]
    max_norm: float
    median_norm: float
    high_norm_fraction: float
    high_norm_energy: float


def sum_rows(stored_ND: NDArray[Any], dtype: Dtype) -> RowSums:
    """Sum one shard in float64, a chunk of rows at a time."""
    num_rows, d_in = stored_ND.shape
    sum_D = np.zeros(d_in)
    square_N = np.empty(num_rows)
    step = min(num_rows, max(1, _CHUNK_BYTES // (8 * d_in)))
    chunk_ND = np.empty((step, d_in), dtype=np.float32)
    for start in range(0, num_rows, step):
        stored = stored_ND[start : start + step]
        decode_rows(stored, dtype, 1.0, chunk_ND[: len(stored)])
        x_ND = chunk_ND[: len(stored)].astype(np.float64)
        sum_D += x_ND.sum(axis=0)
        square_N[start : start + len(stored)] = np.einsum("nd,nd->n", x_ND, x_ND)
    nonzero_N = square_N > 0
    median_square = float(np.median(square_N[nonzero_N])) if nonzero_N.any() else 0.0
    high_N = square_N > HIGH_NORM**2 * median_square
    return RowSums(
        num_rows=num_rows,
        sum_D=sum_D,
        sum_square=float(square_N.sum()),
        max_norm=math.sqrt(float(square_N.max())),
        nonzero_rows=int(nonzero_N.sum()),
        median_norm=math.sqrt(median_square),
        high_rows=int(high_N.sum()),
        high_square=float(square_N[high_N].sum()),
    )


def combine(sums: Sequence[RowSums]) -> BankStatistics:
    """Combine the sums of all shards; the result does not depend on which worker summed which shard.

    Raises:
        UserInputError: Every activation is zero, so that no scale exists.
    """
    num_rows = sum(part.num_rows for part in sums)
    sum_square = math.fsum(part.sum_square for part in sums)
    if sum_square == 0.0:
        raise UserInputError(
            "every activation of the subject is zero", "check the subject: there is nothing to reconstruct"
        )
    sum_D = np.sum([part.sum_D for part in sums], axis=0)
    return BankStatistics(
        scale=math.sqrt(len(sum_D) * num_rows / sum_square),
        mean_D=tuple(float(value) for value in sum_D / num_rows),
        max_norm=max(part.max_norm for part in sums),
        median_norm=_weighted_median([part.median_norm for part in sums], [part.nonzero_rows for part in sums]),
        high_norm_fraction=sum(part.high_rows for part in sums) / num_rows,
        high_norm_energy=math.fsum(part.high_square for part in sums) / sum_square,
    )


def _weighted_median(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return the smallest value at which at least half of the weight is reached."""
    reached, half = 0, sum(weights) / 2
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= half:
            return value
    raise AssertionError("no values")
