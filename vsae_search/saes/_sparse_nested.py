"""Squared errors of all prefixes of a dictionary for a sparse code.

Shapes: B batch, D d_in, F d_sae, G nested widths, N entries of the code, n those of one block of latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsae_search.saes._sparse import Support, row_sums, weight_gradient


def _blocks(support: Support, widths: tuple[int, ...]) -> list[tuple[slice, Tensor, Support]]:
    """For each block of latents between two widths: its latents, its entries [n] and its own support."""
    blocks, start = [], 0
    for width in widths:
        inside_n = ((support.latent_N >= start) & (support.latent_N < width)).nonzero().squeeze(1)
        count_B = torch.bincount(support.row_N[inside_n], minlength=len(support.start_R) - 1)
        starts = torch.cat([count_B.new_zeros(1), count_B.cumsum(0)])
        blocks.append(
            (slice(start, width), inside_n, Support(support.latent_N[inside_n] - start, starts, width - start))
        )
        start = width
    return blocks


class _NestedReconstruction(torch.autograd.Function):
    """See :func:`sparse_nested_losses`."""

    @staticmethod
    def forward(
        ctx: Any,
        values_N: Tensor,
        W_dec_FD: Tensor,
        b_dec_D: Tensor,
        x_BD: Tensor,
        support: Support,
        widths: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        ctx.blocks = _blocks(support, widths)
        errors, error_BD = [], b_dec_D - x_BD
        for latents, inside_n, part in ctx.blocks:  # a prefix adds its own latents to the error of the prefix before
            error_BD = error_BD + row_sums(W_dec_FD[latents], part.latent_N, part.start_R, values_N[inside_n])
            errors.append(error_BD)
        ctx.save_for_backward(values_N, W_dec_FD, *errors)
        ctx.mark_non_differentiable(error_BD)
        return torch.stack([error.square().sum() for error in errors]) / len(x_BD), error_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values_N, W_dec_FD, *errors = ctx.saved_tensors
        weight_G = grads[0] * (2.0 / len(errors[0]))
        dvalues_N, dW_dec_FD = torch.empty_like(values_N), torch.empty_like(W_dec_FD)
        dxhat_BD = torch.zeros_like(errors[0])
        for group in reversed(range(len(errors))):  # latents are part of their own prefix and of every wider one
            dxhat_BD.addcmul_(errors[group], weight_G[group])
            latents, inside_n, part = ctx.blocks[group]
            dvalues_N[inside_n] = weight_gradient(dxhat_BD, W_dec_FD[latents], part)
            order_n, row_n, starts = part.by_latent
            dW_dec_FD[latents] = row_sums(dxhat_BD, row_n, starts, values_N[inside_n][order_n])
        return dvalues_N, dW_dec_FD, dxhat_BD.sum(0), None, None, None


def sparse_nested_losses(
    values_N: Tensor, support: Support, W_dec_FD: Tensor, b_dec_D: Tensor, x_BD: Tensor, widths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sum-of-squares errors of all prefixes of the dictionary for a sparse code, averaged over tokens.

    Args:
        values_N: Values of the code on its support [N].
        support: Where they are.
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D], part of every prefix.
        x_BD: Target activations [B, D]; no gradient flows to them.
        widths: Prefix widths, increasing, the last one F.

    Returns:
        Errors [G], each ``mean_b Σ_d (xhat_g - x)²``, and the detached error ``xhat - x`` [B, D] of the whole code.
    """
    losses_G, error_BD = _NestedReconstruction.apply(  # type: ignore[no-untyped-call]
        values_N, W_dec_FD, b_dec_D, x_BD, support, widths
    )
    return losses_G, error_BD
