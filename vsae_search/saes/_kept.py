"""What architectures that keep a fixed number of latents per token have in common.

Shapes: B batch, F d_sae, D d_in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from vsae_search.saes._auxk import keep_largest
from vsae_search.saes.base import SaeConfig, SparseAutoencoder
from vsae_search.saes.canonical import CanonicalSae, fold

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor


class KeptConfig(SaeConfig):
    """Hyper-parameters of :class:`KeepsLargest`."""

    k: int = Field(default=32, gt=0, description="Latents kept per token: the L0.")

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self


class KeepsLargest(SparseAutoencoder):
    """``f = `` the ``k`` largest of ``ReLU((x - b_dec) W_enc + b_enc)`` of each token; ties are broken arbitrarily.

    A token with fewer than ``k`` positive pre-activations has fewer than ``k`` firing latents.
    """

    Config: ClassVar[type[SaeConfig]] = KeptConfig
    config: KeptConfig

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        return keep_largest(self.preactivations(x_BD), self.config.k)

    def declared_l0(self) -> int | None:
        """``k``."""
        return self.config.k

    def canonical(self) -> CanonicalSae:
        """Folded inference form."""
        return fold(
            self.W_enc, self.b_enc, self.W_dec, self.b_dec, subtract_b_dec=True, activation="topk", k=self.config.k
        )
