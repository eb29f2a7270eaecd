"""What architectures with a firing threshold have in common: comparing with it, its precision and the folded form.

Shapes: B batch, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vsae_search.saes.canonical import CanonicalSae, fold

if TYPE_CHECKING:
    from typing import Self

    from vsae_search.saes.base import SparseAutoencoder


def exceeds(values_BF: Tensor, bound: Tensor | float) -> Tensor:
    """1 where a value is above the bound and 0 elsewhere, in the type of the values [B, F].

    As numbers, because multiplying by truth values, or counting them, converts all of them first.
    """
    numbers_BF = torch.empty_like(values_BF)
    return torch.gt(values_BF, bound, out=numbers_BF)


class Float32Threshold(nn.Module):
    """A module whose ``threshold`` stays in float32 when the rest is cast to half precision.

    A step of Adam moves a threshold by less than half precision can tell apart, and a rounded threshold changes which
    latents fire.
    """

    threshold: Tensor

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        exact = self.threshold.detach()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        if self.threshold.dtype in (torch.float16, torch.bfloat16):
            self.threshold.data = exact.to(self.threshold.device, torch.float32)
        return self


def fold_with_threshold(sae: SparseAutoencoder, threshold_F: Tensor) -> CanonicalSae:
    """Folded ``jumprelu`` form of an autoencoder whose pre-activations fire above ``threshold_F`` [F]."""
    return fold(
        sae.W_enc,
        sae.b_enc,
        sae.W_dec,
        sae.b_dec,
        subtract_b_dec=sae.subtract_b_dec,
        activation="jumprelu",
        threshold_F=threshold_F,
    )
