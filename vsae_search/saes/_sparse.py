"""Decoding, and gradients, of a code that is known only where it may differ from zero.

Shapes: B batch, D d_in, F d_sae, N entries of the code that may differ from zero, M latents that may be selected.

Of the five matrix products of a dense step only the encoder's has to be dense: it decides which entries fire. The other
four touch the N firing entries, one row of a matrix each, and are exact: they leave out products with zero and nothing
else. With N = 32 per token of 4096 latents that is a hundredth of the arithmetic. Gradients of weights are sums over
entries of the same latent; sorted by latent they become the same operation as decoding (a weighted sum of rows per
group), which is why no scattered addition is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsae_search.saes._rectified import rectified_reconstruction_loss
from vsae_search.saes._sparse_select import Above, select, threshold_pays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.saes._sparse_select import Rule
    from vsae_search.saes._sparse_squares import PositiveSquares
    from vsae_search.saes.base import SparseAutoencoder

_SUM = 0  # how the operators below name the mode "sum"


@dataclass(frozen=True, eq=False)
class Support:
    """Entries (token, latent) of a code [B, F] that may differ from zero, token by token.

    Attributes:
        latent_N: Latent of each entry [N], int64.
        start_R: Where each token's entries start, and N at the end [B + 1], int64.
        d_sae: Number of latents F.
    """

    latent_N: Tensor
    start_R: Tensor
    d_sae: int

    @cached_property
    def row_N(self) -> Tensor:
        """Token of each entry [N], int64."""
        tokens_B = torch.arange(len(self.start_R) - 1, device=self.latent_N.device)
        return tokens_B.repeat_interleave(self.start_R.diff(), output_size=len(self.latent_N))

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same entries sorted by latent: order [N], token of each [N], start of each latent, and N [F + 1]."""
        narrow = torch.int16 if self.d_sae <= torch.iinfo(torch.int16).max else torch.int32  # narrow keys sort faster
        order_N = self.latent_N.to(narrow).sort(stable=True).indices
        count_F = torch.bincount(self.latent_N, minlength=self.d_sae)
        start = torch.cat([count_F.new_zeros(1), count_F.cumsum(0)])
        return order_N, self.row_N[order_N], start

    def sum_by_latent(self, values_N: Tensor) -> Tensor:
        """Sum over tokens [F] of values on the entries [N]; passes a gradient."""
        return values_N.new_zeros(self.d_sae).index_add(0, self.latent_N, values_N)

    def to_dense(self, values_N: Tensor) -> Tensor:
        """The code [B, F] with these values [N]; for tests and rare diagnostics."""
        dense_BF = values_N.new_zeros(len(self.start_R) - 1, self.d_sae)
        return dense_BF.index_put((self.row_N, self.latent_N), values_N)


class Selected(NamedTuple):
    """Selected pre-activations, twice: the two differ in where their gradients go.

    Attributes:
        pre_N: Pre-activations [N]; gradients flow to the encoder and, where it is subtracted, to ``b_dec``.
        held_N: The same numbers [N] with ``b_dec`` held constant, for auxiliary losses that must not move it.
        support: Where they are.
    """

    pre_N: Tensor
    held_N: Tensor
    support: Support


def row_sums(table: Tensor, row: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of rows of a table for each group of entries; an empty group gives zeros."""
    return torch.nn.functional.embedding_bag(
        row, table, start, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def weight_gradient(dsum_BD: Tensor, table_FD: Tensor, support: Support) -> Tensor:
    """Gradient of row sums by their weights [N]: the product of each entry's table row with its token's gradient."""
    gradient_N: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        dsum_BD, table_FD, support.latent_N, support.start_R[:-1], support.row_N, _SUM
    )
    return gradient_N


class _Preactivations(torch.autograd.Function):
    """Gives known pre-activations the gradient of the encoder; see :class:`Selected`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        # the biases are inputs for the sake of their gradients
        pre_N, centred_BD, W_enc_DF, _b_enc_F, _b_dec_D, support = inputs
        ctx.save_for_backward(centred_BD, W_enc_DF)
        ctx.support = support
        ctx.set_materialize_grads(False)
        return pre_N.view_as(pre_N), pre_N.view_as(pre_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        centred_BD, W_enc_DF = ctx.saved_tensors
        dpre_N, db_dec_D = grads[0], None
        if ctx.needs_input_grad[4] and dpre_N is not None:
            db_dec_D = torch.mv(W_enc_DF, ctx.support.sum_by_latent(dpre_N)).neg_()
        both = [grad for grad in grads if grad is not None]
        dboth_N = both[0] if len(both) == 1 else both[0] + both[1]
        order_N, row_N, start = ctx.support.by_latent
        dW_enc_FD = row_sums(centred_BD, row_N, start, dboth_N[order_N])
        return None, None, dW_enc_FD.T, ctx.support.sum_by_latent(dboth_N), db_dec_D, None


class _Reconstruction(torch.autograd.Function):
    """Squared error of a sparse code and the residual; see :func:`sparse_reconstruction_loss`."""

    @staticmethod
    def forward(
        ctx: Any, values_N: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor | None, x_BD: Tensor, support: Support
    ) -> tuple[Tensor, Tensor]:
        error_BD = row_sums(W_dec_FD, support.latent_N, support.start_R, values_N).sub_(x_BD)
        if b_dec_D is not None:
            error_BD += b_dec_D
        ctx.save_for_backward(values_N, W_dec_FD, error_BD)
        ctx.support = support
        ctx.mark_non_differentiable(error_BD)
        flat = error_BD.view(-1)
        return torch.dot(flat, flat).div_(len(x_BD)), error_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values_N, W_dec_FD, error_BD = ctx.saved_tensors
        support: Support = ctx.support
        dxhat_BD = error_BD * (grads[0] * (2.0 / len(error_BD)))
        dvalues_N = dW_dec_FD = db_dec_D = None
        if ctx.needs_input_grad[0]:
            dvalues_N = weight_gradient(dxhat_BD, W_dec_FD, support)
        if ctx.needs_input_grad[1]:
            order_N, row_N, start = support.by_latent
            dW_dec_FD = row_sums(dxhat_BD, row_N, start, values_N[order_N])
        if ctx.needs_input_grad[2]:
            db_dec_D = dxhat_BD.sum(0)
        return dvalues_N, dW_dec_FD, db_dec_D, None, None


def selected_preactivations(
    sae: SparseAutoencoder, x_BD: Tensor, rules: Sequence[Rule], squares: PositiveSquares | None = None
) -> list[Selected]:
    """Pre-activations ``(x - b_dec) W_enc + b_enc`` where rules select them, from one pass over the encoder.

    They are computed for a block of rows at a time and dropped once the rules have seen them, so the full [B, F] matrix
    never exists.

    Args:
        sae: Autoencoder; ``subtract_b_dec`` says whether ``b_dec`` is subtracted from the input.
        x_BD: Scaled activations [B, D]; no gradient flows to them.
        rules: What to select.
        squares: Is shown all pre-activations on the way.

    Returns:
        What each rule selected.
    """
    b_dec_D = sae.b_dec if sae.subtract_b_dec else None
    with torch.no_grad():
        centred_BD = x_BD if b_dec_D is None else x_BD - b_dec_D
        found = select(centred_BD, sae.W_enc, sae.b_enc, rules, squares.see if squares else None)
    selected = []
    for entries in found:
        support = Support(entries.latent_N, entries.start(), sae.config.d_sae)
        pre_N, held_N = _Preactivations.apply(  # type: ignore[no-untyped-call]
            entries.value_N, centred_BD, sae.W_enc, sae.b_enc, b_dec_D, support
        )
        selected.append(Selected(pre_N, held_N, support))
    return selected


def sparse_reconstruction_loss(
    values_N: Tensor, support: Support, W_dec_FD: Tensor, b_dec_D: Tensor | None, x_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum-of-squares reconstruction error of a sparse code, averaged over tokens.

    The same numbers as ``reconstruction_loss`` of the dense code.

    Args:
        values_N: Values of the code on its support [N].
        support: Where they are.
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D]; None to decode without one.
        x_BD: Target activations [B, D]; no gradient flows to them.

    Returns:
        The scalar ``mean_b Σ_d (xhat - x)²`` and the detached error ``xhat - x`` [B, D].
    """
    loss, error_BD = _Reconstruction.apply(values_N, W_dec_FD, b_dec_D, x_BD, support)  # type: ignore[no-untyped-call]
    return loss, error_BD


def sparse_auxk_loss(dead: Selected, W_dec_FD: Tensor, error_BD: Tensor) -> Tensor:
    """Squared error with which selected dead latents reconstruct the residual, relative to the residual's variance.

    The same number as ``auxk_loss`` of the dense dead pre-activations.

    Args:
        dead: Largest pre-activations of the dead latents.
        W_dec_FD: Decoder weights of all latents [F, D].
        error_BD: Detached reconstruction error ``xhat - x`` [B, D].

    Returns:
        Scalar; 0 when the residual does not vary.
    """
    residual_BD = error_BD.neg()
    squared, _ = sparse_reconstruction_loss(dead.held_N.relu(), dead.support, W_dec_FD, None, residual_BD)
    variance = (residual_BD - residual_BD.mean(0)).square().sum()
    varies = variance > 0
    # made safe before dividing: masking an infinite quotient afterwards would leave NaN gradients
    return squared * len(error_BD) / torch.where(varies, variance, 1.0) * varies


def rectified_reconstruction(sae: SparseAutoencoder, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction loss of the code ``ReLU(pre-activation)`` and its sum per latent, sparse where that pays.

    Args:
        sae: Autoencoder whose code is the rectified pre-activation.
        x_BD: Scaled activations [B, D].

    Returns:
        The scalar ``mean_b Σ_d (xhat - x)²``, and ``Σ_b f`` [F], which passes gradients too.
    """
    if not threshold_pays(sae, x_BD):
        return rectified_reconstruction_loss(
            x_BD, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, subtract_b_dec=sae.subtract_b_dec
        )
    ((f_N, _, support),) = selected_preactivations(sae, x_BD, [Above(0.0)])  # positive, so there is nothing to rectify
    return sparse_reconstruction_loss(f_N, support, sae.W_dec, sae.b_dec, x_BD)[0], support.sum_by_latent(f_N)
