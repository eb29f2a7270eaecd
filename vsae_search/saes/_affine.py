"""The two affine maps of a training step, with exactly the five matrix products that a step needs.

Shapes: B batch, D d_in, F d_sae.

Written with plain autograd, subtracting ``b_dec`` from the input makes the backward pass form the whole input gradient
``dPre W_encᵀ`` (a sixth product of full size) only to sum its rows. ``(Σ_b dPre) W_encᵀ`` is the same vector for a
B-th of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class _EncoderAffine(torch.autograd.Function):
    """``(x - b_dec) W_enc + b_enc``; see :func:`encoder_affine`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BD: Tensor, W_enc_DF: Tensor, b_enc_F: Tensor, b_dec_D: Tensor) -> Tensor:
        centred_BD = x_BD - b_dec_D
        ctx.save_for_backward(centred_BD, W_enc_DF)
        return torch.addmm(b_enc_F, centred_BD, W_enc_DF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        (dpre_BF,) = grads
        centred_BD, W_enc_DF = ctx.saved_tensors
        dbias_F = dpre_BF.sum(0)
        dx_BD = dpre_BF @ W_enc_DF.T if ctx.needs_input_grad[0] else None
        return dx_BD, centred_BD.T @ dpre_BF, dbias_F, torch.mv(W_enc_DF, dbias_F).neg_()


class _Reconstruction(torch.autograd.Function):
    """Squared error of ``f W_dec + b_dec`` and the residual; see :func:`reconstruction_loss`."""

    @staticmethod
    def forward(ctx: Any, f_BF: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        error_BD = torch.addmm(b_dec_D, f_BF, W_dec_FD).sub_(x_BD)
        ctx.save_for_backward(f_BF, W_dec_FD, error_BD)
        ctx.mark_non_differentiable(error_BD)
        return error_BD.square().sum().div_(x_BD.shape[0]), error_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None]:
        f_BF, W_dec_FD, error_BD = ctx.saved_tensors
        dxhat_BD = error_BD * (grads[0] * (2.0 / error_BD.shape[0]))
        df_BF = dxhat_BD @ W_dec_FD.T if ctx.needs_input_grad[0] else None
        dW_dec_FD = f_BF.T @ dxhat_BD if ctx.needs_input_grad[1] else None
        return df_BF, dW_dec_FD, dxhat_BD.sum(0), None


def encoder_affine(x_BD: Tensor, W_enc_DF: Tensor, b_enc_F: Tensor, b_dec_D: Tensor | None) -> Tensor:
    """Pre-activations ``(x - b_dec) W_enc + b_enc``, without an input-gradient product unless ``x`` asks for one.

    Args:
        x_BD: Scaled activations [B, D].
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F].
        b_dec_D: Decoder bias [D] to subtract from the input; None for architectures that do not subtract it.

    Returns:
        Pre-activations [B, F].
    """
    if b_dec_D is None:
        return torch.addmm(b_enc_F, x_BD, W_enc_DF)  # x needs no gradient, so autograd skips its product by itself
    pre_BF: Tensor = _EncoderAffine.apply(x_BD, W_enc_DF, b_enc_F, b_dec_D)  # type: ignore[no-untyped-call]
    return pre_BF


def reconstruction_loss(f_BF: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Sum-of-squares reconstruction error, averaged over tokens.

    Args:
        f_BF: Code [B, F].
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D].
        x_BD: Target activations [B, D]; no gradient flows to them.

    Returns:
        The scalar ``mean_b Σ_d (xhat - x)²`` and the detached error ``xhat - x`` [B, D].
    """
    loss, error_BD = _Reconstruction.apply(f_BF, W_dec_FD, b_dec_D, x_BD)  # type: ignore[no-untyped-call]
    return loss, error_BD
