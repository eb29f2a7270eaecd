"""The codes of all rows, held sparsely.

Shapes: N rows, F latents.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csc_array


class Codes:
    """Which latents fire on which rows, and how strongly.

    Strengths are ``f_i ‖w_i‖``, what the latent adds to the reconstruction, so that latents can be compared whatever
    the norms of their decoder rows; in units in which the mean squared norm of a row is its width.

    Args:
        by_row: Strengths [N, F]; its stored entries are those of latents that fire.
    """

    def __init__(self, by_row: csr_array) -> None:
        self.by_row = by_row

    @property
    def num_rows(self) -> int:
        """Number of rows, N."""
        return int(self.by_row.shape[0])

    @property
    def d_sae(self) -> int:
        """Number of latents, F."""
        return int(self.by_row.shape[1])

    @cached_property
    def by_latent(self) -> csc_array:
        """The same entries, latent by latent; rows rise within a latent."""
        return self.by_row.tocsc()

    @cached_property
    def fired_F(self) -> NDArray[np.int64]:
        """Rows on which each latent fires [F]."""
        return np.diff(self.by_latent.indptr).astype(np.int64)

    @cached_property
    def alive_A(self) -> NDArray[np.int64]:
        """Latents that fire on at least one row [A]."""
        return np.flatnonzero(self.fired_F)

    @property
    def signed(self) -> bool:
        """Whether any strength is negative: a latent then stands for a direction and its opposite."""
        return bool(len(self.by_row.data)) and float(self.by_row.data.min()) < 0

    def of(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows on which a latent fires, rising, and its strengths there."""
        part = slice(int(self.by_latent.indptr[latent]), int(self.by_latent.indptr[latent + 1]))
        return self.by_latent.indices[part].astype(np.int64), self.by_latent.data[part]

    def total(self, values_N: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the sum over the rows of each latent [F] of a value for every stored entry by latent [N]."""
        sums = np.concatenate([[0.0], np.cumsum(values_N, dtype=np.float64)])
        return np.asarray(sums[self.by_latent.indptr[1:]] - sums[self.by_latent.indptr[:-1]])


class CodesBuilder:
    """Collects codes chunk by chunk in memory that is set aside at the start.

    Setting it aside costs nothing until it is used. Arrays of each chunk, kept between the large and short-lived ones
    of the pass, would keep freed memory from being used again.

    Args:
        num_rows: Rows at most.
        d_sae: Number of latents.
        max_entries: Firings that fit in memory.
    """

    def __init__(self, num_rows: int, d_sae: int, max_entries: int) -> None:
        self._d_sae = d_sae
        self._start = np.zeros(num_rows + 1, dtype=np.int64)
        self._latent = np.empty(max_entries, dtype=np.int32)
        self._value = np.empty(max_entries, dtype=np.float32)
        self._rows = 0

    def add(self, count_B: NDArray[np.int64], latent_E: NDArray[np.int32], value_E: NDArray[np.float32]) -> bool:
        """Take in one chunk: firings of each row, and their latents and strengths in order of rows.

        Returns:
            Whether there was room for it.
        """
        first = int(self._start[self._rows])
        last = first + len(latent_E)
        if last > len(self._latent):
            return False
        end = self._rows + len(count_B)
        self._start[self._rows + 1 : end + 1] = first + np.cumsum(count_B)
        self._latent[first:last], self._value[first:last] = latent_E, value_E
        self._rows = end
        return True

    def build(self) -> Codes:
        """Return the codes; call once, after the last chunk."""
        start = self._start[: self._rows + 1]
        index = np.int32 if start[-1] < np.iinfo(np.int32).max else np.int64
        parts = (self._value[: start[-1]], self._latent[: start[-1]], start.astype(index))
        return Codes(csr_array(parts, shape=(self._rows, self._d_sae)))
