"""Initial decoder directions, unit-norm constraints and the geometric median.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY_NORM = 1e-12


@torch.no_grad()
def random_directions_(W_dec_FD: Tensor, norm: float, generator: torch.Generator) -> None:
    """Fill decoder rows with independent directions, uniform on the sphere of radius ``norm``, in place."""
    rows_FD = torch.randn(W_dec_FD.shape, generator=generator, dtype=torch.float32)
    rows_FD *= norm / torch.linalg.vector_norm(rows_FD, dim=1, keepdim=True).clamp_min(_TINY_NORM)
    W_dec_FD.copy_(rows_FD)


@torch.no_grad()
def project_decoder_gradient_(W_dec_FD: Tensor, grad_FD: Tensor) -> None:
    """Remove from each gradient row its part along the (unit) decoder row, in place.

    Without it Adam's second moments count a component that the renormalisation throws away.
    """
    parallel_F = (grad_FD * W_dec_FD).sum(1, keepdim=True)
    grad_FD.addcmul_(W_dec_FD, parallel_F, value=-1.0)


@torch.no_grad()
def normalise_decoder_(W_dec_FD: Tensor) -> None:
    """Scale each decoder row to norm 1, in place (a zero row stays zero)."""
    W_dec_FD.div_(torch.linalg.vector_norm(W_dec_FD, dim=1, keepdim=True).clamp_min_(_TINY_NORM))


@torch.no_grad()
def geometric_median(x_BD: Tensor, *, iterations: int = 100, tolerance: float = 1e-6, max_rows: int = 16_384) -> Tensor:
    """Point with the least mean distance to the rows, by Weiszfeld's algorithm.

    Args:
        x_BD: Sample rows [B, D].
        iterations: At most this many re-weightings.
        tolerance: Stop when the step is below this share of the rows' mean distance to the point.
        max_rows: Only the first rows up to this many are used; the median of 16k rows is within a percent.

    Returns:
        Geometric median [D], in the dtype of ``x_BD``.

    Reference:
        Weiszfeld (1937); guarded at data points as in Vardi & Zhang (2000) by a distance floor.
    """
    rows_BD = x_BD[:max_rows]
    median_D = rows_BD.mean(0)
    for _ in range(iterations):
        distance_B = torch.linalg.vector_norm(rows_BD - median_D, dim=1)
        spread = distance_B.mean()
        weight_B = 1.0 / distance_B.clamp_min(1e-6 * float(spread) + _TINY_NORM)
        updated_D = weight_B @ rows_BD / weight_B.sum()
        moved = torch.linalg.vector_norm(updated_D - median_D)
        median_D = updated_D
        if float(moved) <= tolerance * float(spread):
            break
    return median_D
