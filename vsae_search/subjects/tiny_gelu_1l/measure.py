"""Loss of a one-layer model on text, and what it costs to ablate an activation.

Counted are the predictions made at positions that hold text: not at position 0 and not at the token between two
documents. Only these positions are ablated.

Shapes: S sequences, T positions, W width of the hook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.subjects.tiny_gelu_1l.model import OneLayerModel

_BATCH = 64


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropy per token, in nats.

    Attributes:
        clean: Of the model as it is.
        zero: With the activation replaced by 0.
        mean: With the activation replaced by its mean over the same text.
        num_tokens: Number of predictions.
    """

    clean: float
    zero: float
    mean: float
    num_tokens: int


@torch.no_grad()
def measure(model: OneLayerModel, tokens_ST: Tensor, hook: str, *, bos_id: int = 0) -> Losses:
    """Measure a model on sequences of tokens.

    Args:
        model: The model, in float32.
        tokens_ST: Sequences, BOS first.
        hook: The activation to ablate.
        bos_id: The special token.
    """
    batches = torch.split(tokens_ST, _BATCH)
    total_W = torch.zeros(model.width(hook), dtype=torch.float64)
    for tokens in batches:
        total_W += model.run_to(tokens, hook).value_STW[tokens != bos_id].sum(dim=0, dtype=torch.float64)
    mean_W = (total_W / (tokens_ST != bos_id).sum()).float()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for tokens in batches:
        point, text_ST = model.run_to(tokens, hook), tokens != bos_id
        for index, value_W in enumerate((None, torch.zeros_like(mean_W), mean_W)):
            x_STW = point.value_STW if value_W is None else torch.where(text_ST[..., None], value_W, point.value_STW)
            resid_STD = model.finish(point._replace(value_STW=x_STW))
            sums[index] += next_token_losses(model, resid_STD, tokens)[text_ST[:, :-1]].sum(dtype=torch.float64)
        count += int(text_ST[:, :-1].sum())
    clean, zero, mean = (sums / count).tolist()
    return Losses(clean, zero, mean, count)


def next_token_losses(model: OneLayerModel, resid_STD: Tensor, tokens_ST: Tensor) -> Tensor:
    """Return the cross-entropy (nats) of each next token, [S, T - 1], given the final residual stream."""
    logits_STV = model.logits(resid_STD[:, :-1]).float()
    return F.cross_entropy(logits_STV.flatten(0, 1), tokens_ST[:, 1:].flatten(), reduction="none").view(
        tokens_ST.shape[0], -1
    )
