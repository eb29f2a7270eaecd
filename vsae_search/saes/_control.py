"""What controls have in common: nothing in them is trained by gradient.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vsae_search.saes._kept import KeepsLargest, KeptConfig
from vsae_search.saes.base import Loss, SaeConfig

if TYPE_CHECKING:
    from torch import Tensor


class ControlConfig(KeptConfig):
    """Hyper-parameters of :class:`Control`."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"lr"})

    lr: float = Field(default=3e-4, gt=0, description="Without effect: nothing is trained by gradient.")


class Control(KeepsLargest):
    """An autoencoder from closed-form statistics of the rows, whose code keeps the ``k`` largest latents of a token.

    It shows how much of a score comes from the evaluation, or from the number of latents, and not from learning.
    """

    Config: ClassVar[type[SaeConfig]] = ControlConfig
    trained_by_gradient: ClassVar[bool] = False
    config: ControlConfig

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, mean over tokens; for the record only."""
        del progress
        f_BF = self.encode(x_BD)
        reconstruction, _ = self.reconstruction(f_BF, x_BD)
        return Loss(reconstruction, reconstruction, {}, f_BF.detach().sum(0) > 0)
