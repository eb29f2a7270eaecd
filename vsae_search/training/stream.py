"""What training asks of a stream of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@runtime_checkable
class Skips(Protocol):
    """A stream that can pass over batches without making them, so that a resumed trial goes on where it stopped."""

    def skip(self, num_batches: int) -> None:
        """Leave out the next ``num_batches`` batches."""


def fast_forward(stream: Iterator[Tensor], num_batches: int) -> None:
    """Pass over batches that an earlier attempt has used; a stream without ``skip`` makes and drops them.

    Args:
        stream: Fresh stream, at its first batch.
        num_batches: How many to leave out.
    """
    if isinstance(stream, Skips):
        stream.skip(num_batches)
        return
    for _ in range(num_batches):
        next(stream)
