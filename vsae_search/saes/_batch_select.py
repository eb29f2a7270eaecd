"""The largest entries of a whole batch, without sorting it; and, except on a CPU, without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vsae_search.saes._sparse_select import true_positions

_MIN_SAMPLED = 1 << 15
_SAMPLE_STRIDE = 8
_DEVIATIONS = 4.0


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


@torch.no_grad()
def smallest_kept(values: Tensor, count: int) -> Tensor | None:
    """The smallest of the ``count`` largest entries, if exactly that many are at least as large.

    A sample says between which two bounds it lies; how many entries are above the upper one is counted, and the rest
    looked for among the few between them. So a selection among all entries becomes a few passes over them, at the price
    of reading counts back, which costs nothing on a CPU.

    Args:
        values: Any shape.
        count: How many to keep.

    Returns:
        The entry []; None where another way is better (elsewhere than on a CPU, or for few entries), or needed: the
        sample misled, or equal entries make the number not exact.
    """
    flat = values.flatten()
    if flat.device.type != "cpu" or len(flat) < _MIN_SAMPLED or count >= len(flat):
        return None
    sample = flat[::_SAMPLE_STRIDE]
    expected = count * len(sample) / len(flat)
    margin = _DEVIATIONS * math.sqrt(expected) + 1.0
    ranks = (int(expected - margin), int(expected + margin))
    if ranks[0] < 1 or ranks[1] > len(sample):
        return None
    best = sample.topk(ranks[1], sorted=False).values
    upper, lower = float(best.topk(ranks[0], sorted=False).values.amin()), float(best.amin())
    above = torch.empty_like(flat)
    missing = count - int(torch.gt(flat, upper, out=above).sum(dtype=torch.float64))
    between = flat[true_positions((flat >= lower) & (flat <= upper))]
    if not 0 < missing <= len(between):
        return None
    found = between.topk(missing, sorted=False).values.amin()
    return found if int((between >= found).sum()) == missing else None
