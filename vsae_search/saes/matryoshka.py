"""Matryoshka BatchTopK autoencoder: every prefix of the dictionary has to reconstruct on its own.

Shapes: B batch, D d_in, F d_sae, G nested widths, N selected entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.autograd.function import once_differentiable

from vsae_search.saes._sparse_nested import sparse_nested_losses
from vsae_search.saes._sparse_select import TopOfBatch, fixed_pays
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.batch_topk import BatchTopK, BatchTopKConfig
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from typing import Self


class MatryoshkaConfig(BatchTopKConfig):
    """Hyper-parameters of :class:`Matryoshka`."""

    num_widths: int = Field(
        default=5,
        gt=0,
        description="Number of nested dictionaries; each is half as wide as the next (F/16 ... F for 5).",
    )

    @model_validator(mode="after")
    def _widths_differ(self) -> Self:
        if self.d_sae < 2 ** (self.num_widths - 1):
            raise ValueError(f"d_sae = {self.d_sae} cannot be halved {self.num_widths - 1} times")
        return self


class _NestedReconstruction(torch.autograd.Function):
    """Squared error of every prefix; see :func:`nested_losses`."""

    @staticmethod
    def forward(
        ctx: Any, f_BF: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor, x_BD: Tensor, widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        errors = []
        error_BD, start = b_dec_D - x_BD, 0
        for width in widths:  # a prefix adds its own block of latents to the error of the prefix before
            error_BD = torch.addmm(error_BD, f_BF[:, start:width], W_dec_FD[start:width])
            errors.append(error_BD)
            start = width
        ctx.widths = widths
        ctx.save_for_backward(f_BF, W_dec_FD, *errors)
        ctx.mark_non_differentiable(error_BD)
        return torch.stack([error.square().sum() for error in errors]) / len(x_BD), error_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        f_BF, W_dec_FD, *errors = ctx.saved_tensors
        df_BF, dW_dec_FD = torch.empty_like(f_BF), torch.empty_like(W_dec_FD)
        weight_G = grads[0] * (2.0 / len(f_BF))
        dxhat_BD = torch.zeros_like(errors[0])
        for group in reversed(range(len(errors))):  # a block is part of its own prefix and of every wider one
            dxhat_BD.addcmul_(errors[group], weight_G[group])
            block = slice(ctx.widths[group - 1] if group else 0, ctx.widths[group])
            torch.mm(dxhat_BD, W_dec_FD[block].T, out=df_BF[:, block])
            torch.mm(f_BF[:, block].T, dxhat_BD, out=dW_dec_FD[block])
        return df_BF, dW_dec_FD, dxhat_BD.sum(0), None, None


def nested_losses(
    f_BF: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor, x_BD: Tensor, widths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sum-of-squares errors of all prefixes, for the matrix products of a single reconstruction.

    Args:
        f_BF: Code [B, F].
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D], part of every prefix.
        x_BD: Target activations [B, D]; no gradient flows to them.
        widths: Prefix widths, increasing, the last one F.

    Returns:
        Errors [G], each ``mean_b Σ_d (xhat_g - x)²``, and the detached error ``xhat - x`` [B, D] of the whole code.
    """
    losses_G, error_BD = _NestedReconstruction.apply(f_BF, W_dec_FD, b_dec_D, x_BD, widths)  # type: ignore[no-untyped-call]
    return losses_G, error_BD


@register("matryoshka")
class Matryoshka(BatchTopK):
    """BatchTopK over all latents; loss ``mean_g ‖x - xhat_g‖² + α AuxK``, ``xhat_g`` from the first ``m_g`` latents.

    Narrow prefixes learn general features and leave special ones to the rest, at some cost in reconstruction. The
    auxiliary loss works on the residual of the full width.

    Reference:
        Bussmann et al., "Learning multi-level features with Matryoshka sparse autoencoders" (2025).
    """

    Config: ClassVar[type[SaeConfig]] = MatryoshkaConfig
    config: MatryoshkaConfig

    def widths(self) -> tuple[int, ...]:
        """Nested widths, each half of the next (rounded up), the last one ``d_sae``."""
        halvings = reversed(range(self.config.num_widths))
        return tuple(-(-self.config.d_sae // 2**halving) for halving in halvings)

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Mean of the nested sum-MSEs plus the auxiliary loss.

        ``reconstruction`` is that of the full width, as for other architectures; ``nested`` is by how much the mean
        over all widths exceeds it.
        """
        del progress
        if fixed_pays(self, x_BD, self.config.k):
            rule = TopOfBatch(self.config.k)
            f_N, support, dead = self.sparse_code(x_BD, rule)
            self._latest_smallest = rule.smallest
            losses_G, error_BD = sparse_nested_losses(f_N, support, self.W_dec, self.b_dec, x_BD, self.widths())
            fired_F = support.sum_by_latent(f_N.detach()) > 0
            auxk = self.sparse_auxk(x_BD, error_BD, dead)
        else:
            f_BF, fired_F = self.select(self.preactivations(x_BD))
            losses_G, error_BD = nested_losses(f_BF, self.W_dec, self.b_dec, x_BD, self.widths())
            auxk = self.auxk(x_BD, error_BD)
        total = losses_G.mean() + auxk
        return Loss(total, losses_G[-1], {"nested": losses_G.mean() - losses_G[-1], "auxk": auxk}, fired_F)
