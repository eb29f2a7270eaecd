"""Which entries of a code fire, found block by block while the encoder runs, and when it pays to treat them as sparse.

Shapes: B batch, b rows of a block, D d_in, F d_sae, N selected entries, G groups, C latents of a group, K kept, M
latents that may be selected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vsae_search.saes.base import SparseAutoencoder

MIN_D_SAE = 512
"""Narrower dictionaries are trained densely: there the matrix products cost less than the bookkeeping."""
MAX_DENSITY = 0.08
"""Share of firing entries above which the dense products are faster."""
MAX_AUXILIARY_DENSITY = 0.25
"""The same for the share of dead latents in the auxiliary loss, whose pre-activations cost nothing extra if sparse."""
_BLOCK_ELEMENTS = 1 << 21
_SAMPLE_ROWS = 32


@dataclass(frozen=True)
class Entries:
    """Selected entries of consecutive rows.

    Attributes:
        value_N: Pre-activations [N].
        latent_N: Their latents [N], int64.
        count_B: How many each row has [B], int64.
    """

    value_N: Tensor
    latent_N: Tensor
    count_B: Tensor

    def start(self) -> Tensor:
        """Where each row's entries start, and N at the end [B + 1]."""
        return torch.cat([self.count_B.new_zeros(1), self.count_B.cumsum(0)])


def joined(parts: Sequence[Entries]) -> Entries:
    """Entries of blocks of rows, one after the other."""
    return Entries(
        torch.cat([part.value_N for part in parts]),
        torch.cat([part.latent_N for part in parts]),
        torch.cat([part.count_B for part in parts]),
    )


class Rule(Protocol):
    """Says which entries to select."""

    def pick(self, pre_bF: Tensor) -> Entries:
        """Entries of one block of pre-activations [b, F]; values are copies, because the block is used again."""

    def finish(self, entries: Entries) -> Entries | None:
        """Last word on the entries of all blocks; None to go through all blocks once more."""


def _group_size(num_columns: int, k: int) -> int:
    """Columns in a group when the ``k`` largest of a row are searched in two steps; 1 where one step is faster."""
    if num_columns >= 2048:
        group = 8
    elif num_columns < 64 * k:  # torch then partitions each row, which is slower than its search for a few
        group = 4
    else:
        group = 1
    return group if num_columns % group == 0 and num_columns >= 4 * k * group else 1


def top_of_rows(pre_bF: Tensor, k: int) -> Tensor:
    """Columns of the ``k`` largest of each row [b, K], in no order; ties are broken arbitrarily.

    Only the ``k`` groups with the largest maxima can hold them, so that a row can be searched in two short steps.
    """
    num_columns, group = pre_bF.shape[1], _group_size(pre_bF.shape[1], k)
    if group == 1:
        return pre_bF.topk(k, dim=-1, sorted=False).indices
    # a group is every num_groups-th column: its maximum is then one pass over contiguous memory
    num_groups = num_columns // group
    best_bK = pre_bF.view(-1, group, num_groups).amax(1).topk(k, dim=-1, sorted=False).indices
    first_C = torch.arange(0, num_columns, num_groups, device=pre_bF.device)
    candidates = (best_bK[:, None, :] + first_C[:, None]).flatten(1)
    found = pre_bF.gather(1, candidates).topk(k, dim=-1, sorted=False)
    return candidates.gather(1, found.indices)


@dataclass(frozen=True)
class TopOfRow:
    """The ``k`` largest pre-activations of each row, or of each row's latents ``among_M`` [M]; all when fewer."""

    k: int
    among_M: Tensor | None = None

    def pick(self, pre_bF: Tensor) -> Entries:
        """Exactly ``min(k, M)`` entries of each row."""
        if self.among_M is not None:
            pre_bF = pre_bF.index_select(1, self.among_M)
        k = min(self.k, pre_bF.shape[1])
        latent_bK = top_of_rows(pre_bF, k)
        value_bK, latent_N = pre_bF.gather(1, latent_bK), latent_bK.flatten()
        if self.among_M is not None:
            latent_N = self.among_M[latent_N]
        return Entries(value_bK.flatten(), latent_N, latent_N.new_full((len(pre_bF),), k))

    def finish(self, entries: Entries) -> Entries | None:
        """Nothing to add."""
        return entries


def true_positions(mask: Tensor) -> Tensor:
    """Flat indices of the true entries of a mask, in order [N]; reads eight mostly false entries at a time."""
    flat = mask.view(-1)
    if len(flat) % 8:
        return flat.nonzero().squeeze(1)
    words = flat.view(torch.int64)
    word_W = words.nonzero().squeeze(1)
    hit_N = words[word_W].view(torch.bool).nonzero().squeeze(1)
    return word_W[hit_N >> 3] * 8 + (hit_N & 7)


@dataclass(frozen=True)
class Above:
    """All entries above a threshold: one number, or one for each latent [F]."""

    threshold: Tensor | float = 0.0

    def pick(self, pre_bF: Tensor) -> Entries:
        """Entries of a block that are above the threshold."""
        num_rows, num_latents = pre_bF.shape
        position_N = true_positions(pre_bF > self.threshold)
        row_N = position_N.div(num_latents, rounding_mode="floor")
        latent_N = position_N - row_N * num_latents
        return Entries(pre_bF.view(-1)[position_N], latent_N, torch.bincount(row_N, minlength=num_rows))

    def finish(self, entries: Entries) -> Entries | None:
        """Nothing to add."""
        return entries


class TopOfBatch:
    """The ``k B`` largest *positive* entries of the whole batch; all positive ones when there are fewer.

    Candidates are taken above a floor guessed from a sample of the first block so that there are somewhat too many, and
    the selection is made among them. Should they turn out to be too few, all blocks are gone through once more with the
    floor at 0, so the result is exact whatever the guess was.

    Attributes:
        smallest: The smallest selected value []; infinite when there is none. Set once the selection is made.
    """

    smallest: Tensor

    def __init__(self, k: int) -> None:
        self.k = k
        self._floor: float | None = None

    def pick(self, pre_bF: Tensor) -> Entries:
        """Candidates of a block."""
        if self._floor is None:
            sample = pre_bF[:: max(1, len(pre_bF) // 64)]
            wanted = int(1.25 * self.k * len(sample)) + self.k
            enough = wanted < sample.numel()
            self._floor = max(0.0, float(sample.flatten().topk(wanted, sorted=False).values.amin())) if enough else 0.0
        return Above(self._floor).pick(pre_bF)

    def finish(self, entries: Entries) -> Entries | None:
        """The largest candidates, or None when the floor was too high."""
        count = self.k * len(entries.count_B)
        if len(entries.value_N) < count and self._floor != 0.0:
            self._floor = 0.0
            return None
        if len(entries.value_N) <= count:
            self.smallest = torch.cat([entries.value_N, entries.value_N.new_full((1,), torch.inf)]).amin()
            return entries
        best = entries.value_N.topk(count, sorted=False)
        self.smallest = best.values.amin()
        kept_N = best.indices.sort().values
        row_N = torch.arange(len(entries.count_B)).repeat_interleave(entries.count_B)
        count_B = torch.bincount(row_N[kept_N], minlength=len(entries.count_B))
        return Entries(entries.value_N[kept_N], entries.latent_N[kept_N], count_B)


@torch.no_grad()
def select(
    centred_BD: Tensor,
    W_enc_DF: Tensor,
    b_enc_F: Tensor,
    rules: Sequence[Rule],
    see: Callable[[Tensor, Tensor], None] | None = None,
) -> list[Entries]:
    """Entries of ``centred W_enc + b_enc`` that rules select, with one block of rows in memory at a time.

    Args:
        centred_BD: Input of the encoder [B, D].
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F].
        rules: What to select.
        see: Called once with the rows [b, D] of each block and their pre-activations [b, F], which it may overwrite.

    Returns:
        The entries of each rule.
    """
    rows_per_block = min(len(centred_BD), max(1, _BLOCK_ELEMENTS // len(b_enc_F)))
    block = centred_BD.new_empty(rows_per_block, len(b_enc_F))
    parts: list[list[Entries]] = [[] for _ in rules]
    for rows_bD in torch.split(centred_BD, rows_per_block):
        pre_bF = torch.addmm(b_enc_F, rows_bD, W_enc_DF, out=block[: len(rows_bD)])
        for rule, part in zip(rules, parts, strict=True):
            part.append(rule.pick(pre_bF))
        if see is not None:
            see(rows_bD, pre_bF)
    found = [rule.finish(joined(part)) for rule, part in zip(rules, parts, strict=True)]
    again = [rule for rule, entries in zip(rules, found, strict=True) if entries is None]
    repeated = iter(select(centred_BD, W_enc_DF, b_enc_F, again)) if again else iter(())
    return [next(repeated) if entries is None else entries for entries in found]


def is_candidate(sae: SparseAutoencoder, x_BD: Tensor) -> bool:
    """Whether sparse treatment may pay at all: on a CPU, in full precision, for a wide dictionary.

    On other devices a step must not wait for a count of firing entries.
    """
    return (
        x_BD.device.type == "cpu"
        and x_BD.dtype == sae.W_enc.dtype
        and x_BD.dtype in (torch.float32, torch.float64)
        and sae.config.d_sae >= MIN_D_SAE
        and not x_BD.requires_grad
        and not torch.is_autocast_enabled("cpu")
    )


def fixed_pays(sae: SparseAutoencoder, x_BD: Tensor, k: int) -> bool:
    """Whether ``k`` selected entries per row are few enough to treat the code as sparse."""
    return is_candidate(sae, x_BD) and k <= MAX_DENSITY * sae.config.d_sae


def auxiliary_pays(k_aux: int, num_dead: int) -> bool:
    """Whether the auxiliary loss with ``k_aux`` of ``num_dead`` latents per row is to be treated as sparse."""
    return k_aux <= MAX_AUXILIARY_DENSITY * num_dead


@torch.no_grad()
def threshold_pays(sae: SparseAutoencoder, x_BD: Tensor, threshold: Tensor | float = 0.0) -> bool:
    """Whether few enough pre-activations exceed a threshold, judged on a few rows spread over the batch [B, D].

    The answer depends on weights and batch alone, so that a resumed training decides as an uninterrupted one.
    """
    if not is_candidate(sae, x_BD):
        return False
    sample_bD = x_BD[:: max(1, len(x_BD) // _SAMPLE_ROWS)]
    over_bF = sae.preactivations(sample_bD) > threshold
    return int(over_bF.sum()) <= MAX_DENSITY * over_bF.numel()
