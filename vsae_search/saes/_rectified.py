"""The dense step of a rectified code with one [B, F] matrix in memory instead of six.

Shapes: B batch, b rows of a block, D d_in, F d_sae.

Autograd would write pre-activations, code, three gradients and a mask, each as large as the code; on a CPU, where
memory of that size is fetched from the system anew each time, a sixth of the step goes into it. Here everything but the
code itself lives for one block of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_ELEMENTS = 1 << 21


def row_blocks(matrix_BF: Tensor) -> Iterator[slice]:
    """Consecutive rows of a matrix, about two million elements at a time; elsewhere than on a CPU all at once."""
    num_rows, num_columns = matrix_BF.shape
    step = max(1, _BLOCK_ELEMENTS // num_columns) if matrix_BF.device.type == "cpu" else max(1, num_rows)
    for start in range(0, num_rows, step):
        yield slice(start, min(num_rows, start + step))


def zero_where_silent_(values_bF: Tensor, code_bF: Tensor) -> Tensor:
    """Set values to 0 in place where a code is not above 0; one pass, where a mask would take two."""
    torch.ops.aten.threshold_backward.grad_input(values_bF, code_bF, 0, grad_input=values_bF)
    return values_bF


class _RectifiedReconstruction(torch.autograd.Function):
    """See :func:`rectified_reconstruction_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        W_enc_DF: Tensor,
        b_enc_F: Tensor,
        W_dec_FD: Tensor,
        b_dec_D: Tensor,
        offset_D: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        centred_BD = x_BD if offset_D is None else x_BD - offset_D
        f_BF, error_BD = x_BD.new_empty(len(x_BD), W_enc_DF.shape[1]), torch.empty_like(x_BD)
        mass_F = f_BF.new_zeros(f_BF.shape[1])
        for rows in row_blocks(f_BF):
            f_bF = torch.addmm(b_enc_F, centred_BD[rows], W_enc_DF, out=f_BF[rows]).relu_()
            mass_F += f_bF.sum(0)
            torch.addmm(b_dec_D, f_bF, W_dec_FD, out=error_BD[rows]).sub_(x_BD[rows])
        ctx.save_for_backward(centred_BD, W_enc_DF, W_dec_FD, f_BF, error_BD)
        return error_BD.square().sum().div_(len(x_BD)), mass_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centred_BD, W_enc_DF, W_dec_FD, f_BF, error_BD = ctx.saved_tensors
        dxhat_BD = error_BD * (grads[0] * (2.0 / len(error_BD)))
        dW_enc_DF, db_enc_F = torch.zeros_like(W_enc_DF), torch.zeros_like(f_BF[0])
        buffer = None
        for rows in row_blocks(f_BF):
            if buffer is None:
                buffer = torch.empty_like(f_BF[rows])
            dpre_bF = torch.addmm(grads[1], dxhat_BD[rows], W_dec_FD.T, out=buffer[: rows.stop - rows.start])
            zero_where_silent_(dpre_bF, f_BF[rows])
            db_enc_F += dpre_bF.sum(0)
            dW_enc_DF.addmm_(centred_BD[rows].T, dpre_bF)
        doffset_D = torch.mv(W_enc_DF, db_enc_F).neg_() if ctx.needs_input_grad[5] else None
        return None, dW_enc_DF, db_enc_F, f_BF.T @ dxhat_BD, dxhat_BD.sum(0), doffset_D


def rectified_reconstruction_loss(
    x_BD: Tensor, W_enc_DF: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor, *, subtract_b_dec: bool
) -> tuple[Tensor, Tensor]:
    """Reconstruction error of the code ``f = ReLU((x - b_dec) W_enc + b_enc)``, and the code's sum over tokens.

    Args:
        x_BD: Scaled activations [B, D]; no gradient flows to them.
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F].
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D].
        subtract_b_dec: Whether ``b_dec`` is subtracted from the input.

    Returns:
        The scalar ``mean_b Σ_d (xhat - x)²``, and ``Σ_b f`` [F].
    """
    offset_D = b_dec_D if subtract_b_dec else None
    loss, mass_F = _RectifiedReconstruction.apply(  # type: ignore[no-untyped-call]
        x_BD, W_enc_DF, b_enc_F, W_dec_FD, b_dec_D, offset_D
    )
    return loss, mass_F
