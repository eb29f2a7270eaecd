"""Squares of all positive pre-activations, with their gradient, without a matrix of their size.

Shapes: B batch, b rows of a block, D d_in, F d_sae.

A penalty ``Σ_i w_i Σ_b ReLU(π)²`` reaches every latent of every token, so it costs two matrix products where the sparse
code costs one. The other three of a dense step need not be made: the gradient of the encoder is ``2 w_i`` times
``Σ_b x ReLU(π)``, which is summed up block by block while the pre-activations are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from vsae_search.saes.base import SparseAutoencoder


class _Squares(torch.autograd.Function):
    """Gives known sums of squares [F] their gradient; see :class:`PositiveSquares`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        # the biases are inputs for the sake of their gradients
        square_F: Tensor = inputs[0]
        _, sum_F, moment_DF, W_enc_DF, _b_enc_F, _b_dec_D = inputs
        ctx.save_for_backward(sum_F, moment_DF, W_enc_DF)
        return square_F.view_as(square_F)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sum_F, moment_DF, W_enc_DF = ctx.saved_tensors
        slope_F = 2.0 * grads[0]
        dbias_F = slope_F * sum_F
        db_dec_D = torch.mv(W_enc_DF, dbias_F).neg_() if ctx.needs_input_grad[5] else None
        return None, None, None, moment_DF * slope_F, dbias_F, db_dec_D


class PositiveSquares:
    """``Σ_b ReLU(π)²`` of each latent, gathered while an autoencoder's encoder runs over a batch.

    Args:
        sae: The autoencoder; ``subtract_b_dec`` says whether ``b_dec`` takes part in the gradient.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self._sae = sae
        self._square_F = torch.zeros_like(sae.b_enc.detach())
        self._sum_F = torch.zeros_like(self._square_F)
        self._moment_DF = torch.zeros_like(sae.W_enc.detach())

    @torch.no_grad()
    def see(self, centred_bD: Tensor, pre_bF: Tensor) -> None:
        """Take in a block of rows.

        Args:
            centred_bD: Input of the encoder [b, D].
            pre_bF: Its pre-activations [b, F]; overwritten.
        """
        positive_bF = pre_bF.relu_()
        self._sum_F += positive_bF.sum(0)
        self._moment_DF.addmm_(centred_bD.T, positive_bF)
        self._square_F += positive_bF.square_().sum(0)

    def by_latent(self) -> Tensor:
        """``Σ_b ReLU(π)²`` [F] of all rows so far; passes gradients to the encoder and a subtracted ``b_dec``."""
        sae = self._sae
        b_dec_D = sae.b_dec if sae.subtract_b_dec else None
        square_F: Tensor = _Squares.apply(  # type: ignore[no-untyped-call]
            self._square_F, self._sum_F, self._moment_DF, sae.W_enc, sae.b_enc, b_dec_D
        )
        return square_F
