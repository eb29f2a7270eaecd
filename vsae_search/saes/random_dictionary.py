"""Control: a dictionary of random directions that is never trained.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from vsae_search.saes._auxk import keep_largest
from vsae_search.saes._control import Control, ControlConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


class RandomDictionaryConfig(ControlConfig):
    """Hyper-parameters of :class:`RandomDictionary`."""


@register("random_dictionary")
class RandomDictionary(Control):
    """``f = g · `` the ``k`` largest of ``ReLU((x - b_dec) · w_i)`` with random unit ``w_i`` that stay as they are.

    Directions are a function of the seed alone; ``b_dec`` is the geometric median of the rows. The selection needs no
    fitting. What is fitted is the one gain ``g`` that reconstructs best, in closed form: random directions that all
    point towards ``x`` overlap, and the sum of their projections overshoots or falls short as a whole. ``g`` is part of
    the encoder weights, so the form is that of a TopK autoencoder.
    """

    Config: ClassVar[type[SaeConfig]] = RandomDictionaryConfig
    config: RandomDictionaryConfig
    overlap: Tensor
    energy: Tensor

    def build(self) -> None:
        """Add the sums [] over rows of ``(x - b_dec) · u`` and of ``‖u‖²``, ``u`` being the decoded code of gain 1."""
        self.register_buffer("overlap", torch.zeros((), dtype=torch.float64))
        self.register_buffer("energy", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, x_BD: Tensor) -> None:
        """Take a batch [B, D] into the sums."""
        centred_BD = x_BD - self.b_dec
        unit_gain_BD = keep_largest(centred_BD @ self.W_dec.T, self.config.k) @ self.W_dec
        self.overlap += (centred_BD * unit_gain_BD).sum(dtype=self.overlap.dtype)
        self.energy += unit_gain_BD.square().sum(dtype=self.energy.dtype)

    @torch.no_grad()
    def solve(self) -> None:
        """Set the gain; each projection is positive, and so is the best gain wherever any latent fires."""
        gain = torch.where(self.energy > 0, self.overlap / self.energy, 1.0)
        self.W_enc.copy_(self.W_dec.T * gain.to(self.W_dec.dtype))
