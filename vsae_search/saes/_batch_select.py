"""The largest entries of a whole batch, without sorting it and without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def largest_entries(values: Tensor, count: int) -> Tensor:
    """Flat indices of the ``count`` largest entries; exactly that many, ties broken arbitrarily.

    Entries are grouped, and only the ``count`` groups with the largest maxima are searched. That loses nothing: an
    entry of any other group is at most its group's maximum, and ``count`` maxima are at least as large. With groups of
    about ``sqrt(size / count)`` one full pass and two small selections replace a selection among all entries.

    Args:
        values: Any shape.
        count: How many to find; all of them when there are fewer.

    Returns:
        Indices into ``values.flatten()`` [min(count, size)], in no particular order.
    """
    flat = values.flatten()
    if count >= len(flat):
        return torch.arange(len(flat), device=flat.device)
    group_size = math.isqrt(len(flat) // count)
    num_groups = len(flat) // group_size
    if group_size == 1:
        return flat.topk(count, sorted=False).indices
    # a group is a column, so that its maximum is taken over contiguous rows; what does not fill a row is searched too
    grouped = flat[: group_size * num_groups].view(group_size, num_groups)
    chosen = grouped.amax(0).topk(count, sorted=False).indices
    rows = torch.arange(group_size, device=flat.device)[:, None] * num_groups
    rest = torch.arange(group_size * num_groups, len(flat), device=flat.device)
    candidates = torch.cat([(rows + chosen).flatten(), rest])
    return candidates[flat[candidates].topk(count, sorted=False).indices]
