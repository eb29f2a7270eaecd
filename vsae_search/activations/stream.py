"""Batches for one trial: contiguous slices of shuffled shards, as fresh scaled float32 copies.

Shapes: B batch, D d_in, N rows of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsae_search.activations.codec import Dtype, decode_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BatchStream(Iterator[torch.Tensor]):
    """An endless iterator over the rows of a bank, in an order that is a function of (seed, epoch) alone.

    Every epoch visits every row exactly once: the shards in an order drawn from (seed, epoch), the rows of a shard as
    they were shuffled at harvest. A batch may straddle two shards. It may also straddle two epochs: the rows left over
    at the end of an epoch are joined by the first rows of the next, so that every batch is full and no row is dropped.

    Each batch is a tensor of its own, already multiplied by the scale. The shared arrays are only ever read by numpy,
    which respects that they are read only; torch never sees them.

    One shard is held at a time, and the next one is asked for when a shard is entered.

    Attributes:
        batch_size: Rows per batch.
        rows_per_epoch: Rows of the bank.
        position: Rows delivered or skipped so far.
    """

    def __init__(
        self,
        load: Callable[[int], NDArray[Any]],
        shard_rows: Sequence[int],
        *,
        d_in: int,
        dtype: Dtype,
        scale: float,
        batch_size: int,
        seed: int,
        device: str = "cpu",
        prefetch: Callable[[int], None] | None = None,
    ) -> None:
        """Open a stream at its beginning.

        Args:
            load: Returns the stored rows [N, D] of a shard; they may be shared and read only.
            shard_rows: Rows of each shard.
            d_in: Width of a row.
            dtype: Row type of the stored rows.
            scale: Factor of every row.
            batch_size: Rows per batch, at least 1.
            seed: Seed of the shard order.
            device: Where the batches go.
            prefetch: Starts moving a shard here, without waiting.
        """
        assert batch_size >= 1, "a batch has at least one row"
        assert shard_rows, "a bank has at least one shard"
        assert min(shard_rows) >= 1, "a shard has at least one row"
        self.batch_size = batch_size
        self.rows_per_epoch = sum(shard_rows)
        self.position = 0
        self._load, self._prefetch = load, prefetch
        self._shard_rows = np.asarray(shard_rows, dtype=np.int64)
        self._d_in, self._dtype, self._scale, self._seed = d_in, dtype, scale, seed
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"  # lets the copy to a GPU overlap with the previous step
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._held: int | None = None
        self._stored_ND: NDArray[Any] = np.empty((0, d_in))
        self._first = self._last = 0  # the positions that the held shard covers, the last one excluded

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> torch.Tensor:
        x_BD = self._fresh()
        out_BD = x_BD.numpy()
        filled = self._read_into(out_BD)
        while filled < self.batch_size:
            filled += self._read_into(out_BD[filled:])
        return x_BD if self._device.type == "cpu" else x_BD.to(self._device, non_blocking=True)

    def skip(self, num_batches: int) -> None:
        """Move past batches without reading them, as if they had been drawn; used to resume a trial.

        The cost is that of one shard order, whatever the number of batches.
        """
        assert num_batches >= 0, "a stream does not go back"
        self.position += num_batches * self.batch_size

    def shard_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order in which an epoch (from 0) visits the shards."""
        # SeedSequence takes no negative numbers; modulo 2^64 keeps distinct seeds distinct
        generator = np.random.default_rng([self._seed % 2**64, epoch])
        return generator.permutation(len(self._shard_rows))

    def _fresh(self) -> torch.Tensor:
        """Return memory for a batch, uninitialised."""
        shape = (self.batch_size, self._d_in)
        if self._pinned:
            return torch.empty(shape, pin_memory=True)
        # numpy hands out memory that is still in cache where torch, which aligns it, often does not: 10 to 25 % faster
        return torch.from_numpy(np.empty(shape, dtype=np.float32))

    def _read_into(self, out_ND: NDArray[np.float32]) -> int:
        """Decode rows at the current position into ``out_ND``, up to the end of the shard; return how many."""
        if not self._first <= self.position < self._last:
            self._enter_shard()
        start = self.position - self._first
        count = min(self._last - self.position, len(out_ND))
        decode_rows(self._stored_ND[start : start + count], self._dtype, self._scale, out_ND[:count])
        self.position += count
        return count

    def _enter_shard(self) -> None:
        """Take hold of the shard at the current position; the work per shard is kept out of that per batch."""
        epoch, offset = divmod(self.position, self.rows_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.shard_order(epoch)
            self._ends = np.cumsum(self._shard_rows[self._order])
        slot = int(np.searchsorted(self._ends, offset, side="right"))
        self._hold(slot)
        self._last = epoch * self.rows_per_epoch + int(self._ends[slot])
        self._first = self._last - len(self._stored_ND)

    def _hold(self, slot: int) -> None:
        """Hold the shard at a place in this epoch's order, and ask for the one after it."""
        index = int(self._order[slot])
        if self._held == index:
            return
        self._held, self._stored_ND = None, self._stored_ND[:0].copy()  # let go first: one shard is held and not two
        self._stored_ND = self._load(index)
        assert self._stored_ND.shape == (self._shard_rows[index], self._d_in), f"shard {index}: {self._stored_ND.shape}"
        self._held = index
        if self._prefetch is not None:
            self._prefetch(self._next_shard(slot))

    def _next_shard(self, slot: int) -> int:
        if slot + 1 < len(self._order):
            return int(self._order[slot + 1])
        return int(self.shard_order(self._epoch + 1)[0])
