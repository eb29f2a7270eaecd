"""Losses of fixed sequences when something replaces the activation; what does not depend on the replacement is kept.

Every trial of a sweep replaces the activation on the same sequences several times, so each process runs the model up
to the hook once and goes on from there. What is kept has a limit; beyond it the whole model is run each time, with the
same result.

Shapes: S sequences of one batch (all sequences in ``Losses``), T positions, N rows, D width of the hook, R residual
stream.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.subjects.language_model import losses
from vsae_search.subjects.language_model.base import same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vsae_search.subjects.language_model.base import CausalModel, State

_KEPT_BYTES = 1 << 30
"""Kept per process and set of sequences; on the CPU, also when the model is on a GPU."""
_KEPT_SETS = 2


@dataclass(frozen=True, eq=False)
class Losses:
    """Mean loss of each sequence, nats per prediction, and its KL from the untouched model where that was asked for."""

    loss_S: NDArray[np.float64]
    kl_S: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some sequences on the device of the model; ``rows`` are the rows of theirs."""

    tokens_ST: Tensor
    kept_ST: Tensor
    rows: slice


class Splicer:
    """Replaces the activation of some sequences at one hook.

    Args:
        model: The model.
        hook: Where the activation is replaced.
        tokens_ST: The sequences.
        kept_ST: Positions at which it is replaced; at least one before the last in each sequence.
        batch: Sequences per forward pass.
    """

    def __init__(
        self,
        model: CausalModel,
        hook: str,
        tokens_ST: NDArray[np.integer],
        kept_ST: NDArray[np.bool_],
        batch: int,
    ) -> None:
        self._model, self._hook = model, hook
        self._tokens_ST, self._kept_ST, self._batch = tokens_ST, kept_ST, batch
        self._first_N = np.concatenate([[0], kept_ST.sum(axis=1).cumsum()])
        self._states: dict[int, State] = {}
        self._finals: dict[int, Tensor] = {}
        self._kept_bytes = 0

    def losses(self, xhat_ND: NDArray[np.float32] | None, *, kl: bool = False) -> Losses:
        """Return the losses with ``xhat_ND`` in place of the activation, or with the activation itself (None).

        Args:
            xhat_ND: One row for each kept position, in order of sequence and position.
            kl: Whether KL(untouched || spliced) is wanted too; it costs another unembedding.
        """
        found, divergences = [], []
        with torch.inference_mode():
            for start, batch in self._batches():
                final_STR = self._final(start, batch, None if xhat_ND is None else xhat_ND[batch.rows])
                if kl:
                    reference_STR = self._reference(start, batch)
                    loss_S, kl_S = losses.cross_entropy_and_kl(
                        self._model, final_STR, reference_STR, batch.tokens_ST, batch.kept_ST
                    )
                    divergences.append(kl_S.cpu().numpy())
                else:
                    loss_S = losses.cross_entropy(self._model, final_STR, batch.tokens_ST, batch.kept_ST)
                found.append(loss_S.cpu().numpy())
        return Losses(np.concatenate(found), np.concatenate(divergences) if kl else None)

    def _batches(self) -> Iterator[tuple[int, _Batch]]:
        """Yield the sequences a batch at a time, with the number of the first."""
        device = self._model.device
        for start in range(0, len(self._tokens_ST), self._batch):
            part = slice(start, start + self._batch)
            stop = min(start + self._batch, len(self._tokens_ST))
            tokens_ST = torch.from_numpy(self._tokens_ST[part].astype(np.int64)).to(device)
            kept_ST = torch.from_numpy(np.array(self._kept_ST[part])).to(device)
            yield start, _Batch(tokens_ST, kept_ST, slice(int(self._first_N[start]), int(self._first_N[stop])))

    def _final(self, start: int, batch: _Batch, xhat_ND: NDArray[np.float32] | None) -> Tensor:
        """Run the rest of the model; the beginning only when it was not kept."""

        def edit(x_STD: Tensor) -> Tensor:
            if xhat_ND is None:
                return x_STD
            edited_STD = x_STD.clone()
            edited_STD[batch.kept_ST] = torch.from_numpy(np.array(xhat_ND)).to(device=x_STD.device, dtype=x_STD.dtype)
            return edited_STD

        state = self._states.get(start)
        if state is None:
            state = self._model.start(batch.tokens_ST, self._hook)
            if self._may_keep(state):
                self._states[start] = tuple(part.cpu() for part in state)
        else:
            state = tuple(part.to(self._model.device) for part in state)
        return self._model.finish(batch.tokens_ST, self._hook, state, edit)

    def _reference(self, start: int, batch: _Batch) -> Tensor:
        """Return what the untouched model gives."""
        kept = self._finals.get(start)
        if kept is not None:
            return kept.to(self._model.device)
        final_STR = self._final(start, batch, None)
        if self._may_keep((final_STR,)):
            self._finals[start] = final_STR.cpu()
        return final_STR

    def _may_keep(self, tensors: State) -> bool:
        """Count tensors against the limit."""
        size = sum(tensor.nbytes for tensor in tensors)
        if self._kept_bytes + size > _KEPT_BYTES:
            return False
        self._kept_bytes += size
        return True


class SplicerCache:
    """The splicers of this process, by what they were made from; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Splicer] = OrderedDict()

    def get(
        self,
        key: tuple[object, ...],
        model: CausalModel,
        hook: str,
        tokens_ST: NDArray[np.integer],
        kept_ST: NDArray[np.bool_],
        batch: int,
    ) -> Splicer:
        """Return the splicer of a key, made when it is not there."""
        splicer = self._kept.get(key)
        if splicer is None:
            splicer = self._kept[key] = Splicer(model, hook, tokens_ST, kept_ST, batch)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_SETS:
            self._kept.popitem(last=False)
        return splicer


def full_losses(
    model: CausalModel, hook: str, tokens_ST: Tensor, kept_ST: Tensor, replacement_STD: Tensor | None
) -> Tensor:
    """Return the mean loss of each sequence by running the whole model, float64 [S]: the slow way, for comparison."""

    def edit(x_STD: Tensor) -> Tensor:
        assert replacement_STD is not None, "only called with a replacement"
        return torch.where(kept_ST[..., None], replacement_STD.to(x_STD.dtype), x_STD)

    with torch.inference_mode():
        final_STR = model.full(tokens_ST, hook, same if replacement_STD is None else edit)
        return losses.cross_entropy(model, final_STR, tokens_ST, kept_ST)
