"""Calibrating one firing threshold to a requested L0 on held-out rows.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK_ELEMENTS = 1 << 24


def row_chunks(x_BD: Tensor, d_sae: int) -> Iterator[Tensor]:
    """Slices of rows [B, D] small enough that a code [b, F] of each has at most 16 million elements."""
    num_rows = max(1, _CHUNK_ELEMENTS // d_sae)
    for start in range(0, len(x_BD), num_rows):
        yield x_BD[start : start + num_rows]


@torch.no_grad()
def threshold_for_l0(codes: Iterable[Tensor], num_rows: int, target_l0: float) -> float:
    """Threshold ``θ`` for which ``f > θ`` keeps ``target_l0`` latents per row on average.

    Exact (the order statistic, not a histogram), in memory proportional to the number of kept values.

    Args:
        codes: Chunks [b, F] of a non-negative code.
        num_rows: Number of rows in all chunks together.
        target_l0: Requested mean number of latents above the threshold.

    Returns:
        The threshold; 0 when the code has no more than ``target_l0`` positive entries per row anyway.
    """
    kept = round(target_l0 * num_rows)
    largest = torch.zeros(0)
    for code_BF in codes:
        candidates = torch.cat([largest.to(code_BF), code_BF[code_BF > 0]])
        largest = candidates.topk(min(kept + 1, len(candidates)), sorted=False).values
    # "above" is strict: the (kept + 1)-th largest value is the threshold that leaves exactly `kept` above it
    return float(largest.min()) if len(largest) > kept else 0.0
