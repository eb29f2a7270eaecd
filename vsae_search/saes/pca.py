"""Control: principal components, each as two latents of opposite sign.

Shapes: B batch, D d_in, F d_sae, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from vsae_search.saes._control import Control, ControlConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig


class PcaConfig(ControlConfig):
    """Hyper-parameters of :class:`Pca`."""


@register("pca")
class Pca(Control):
    """``f = `` the ``k`` largest of ``ReLU(±(x - mean) · v_j)``, ``v_j`` the leading principal directions.

    Of the two latents of a direction at most one fires, so the code is not negative and L0 counts directions. Keeping
    the ``k`` largest is the best choice of ``k`` directions for a row, since they are orthogonal. There are
    ``min(d_sae / 2, d_in)`` pairs, by falling variance; latents beyond them never fire.
    """

    Config: ClassVar[type[SaeConfig]] = PcaConfig
    config: PcaConfig
    second_moment: Tensor
    total: Tensor
    num_rows: Tensor

    def build(self) -> None:
        """Add the sums over rows of ``x xᵀ`` [D, D] and of ``x`` [D], and the number of rows []."""
        d_in = self.config.d_in
        self.register_buffer("second_moment", torch.zeros(d_in, d_in, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(d_in, dtype=torch.float64))
        self.register_buffer("num_rows", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, x_BD: Tensor) -> None:
        """Take a batch [B, D] into the sums."""
        x_BD = x_BD.to(self.total.dtype)
        self.second_moment.addmm_(x_BD.T, x_BD)
        self.total += x_BD.sum(0)
        self.num_rows += len(x_BD)

    @torch.no_grad()
    def solve(self) -> None:
        """Set weights and biases from the covariance of all rows so far."""
        assert bool(self.num_rows > 0), "solve comes after observe"
        mean_D = self.total / self.num_rows
        covariance_DD = self.second_moment / self.num_rows - torch.outer(mean_D, mean_D)
        num_pairs = min(self.config.d_sae // 2, self.config.d_in)
        leading_PD = torch.linalg.eigh(covariance_DD).eigenvectors.flip(1).T[:num_pairs]
        self.W_dec[: 2 * num_pairs].copy_(torch.cat([leading_PD, -leading_PD]))
        self.W_enc.copy_(self.W_dec.T)
        self.W_enc[:, 2 * num_pairs :] = 0.0  # their decoder rows stay the random unit directions of the start
        self.b_enc.zero_()
        self.b_dec.copy_(mean_D)
