"""The auxiliary loss that revives dead latents: let them reconstruct what the living ones leave over.

Shapes: B batch, D d_in, F d_sae, N dead latents, K active.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsae_search.saes._sparse_select import top_of_rows


def keep_largest(pre_BF: Tensor, k: int) -> Tensor:
    """``ReLU`` of the ``k`` largest pre-activations of each token, 0 elsewhere [B, F]; ties are broken arbitrarily."""
    if k >= pre_BF.shape[-1]:
        return pre_BF.relu()
    index_BK = top_of_rows(pre_BF.detach(), k)
    return torch.zeros_like(pre_BF).scatter(-1, index_BK, pre_BF.gather(-1, index_BK).relu())


def auxk_loss(pre_BN: Tensor, W_dec_ND: Tensor, error_BD: Tensor, k_aux: int) -> Tensor:
    """Squared error with which dead latents reconstruct the residual, relative to the residual's variance.

    ``mean‖e - ê‖² / mean‖e - mean_t e‖²`` with ``e = x - xhat`` held constant and ``ê`` decoded from the ``k_aux``
    largest dead pre-activations *without* a bias. 0 when the residual does not vary.

    Args:
        pre_BN: Pre-activations of the dead latents [B, N].
        W_dec_ND: Their decoder rows [N, D].
        error_BD: Detached reconstruction error ``xhat - x`` [B, D].
        k_aux: Dead latents used per token; all of them when there are fewer.

    Returns:
        Scalar.

    Reference:
        Gao et al., "Scaling and evaluating sparse autoencoders" (2024), appendix A.2.
    """
    residual_BD = error_BD.neg()
    estimate_BD = keep_largest(pre_BN, k_aux) @ W_dec_ND
    variance = (residual_BD - residual_BD.mean(0)).square().sum()
    varies = variance > 0
    # the denominator is made safe before dividing: masking an infinite quotient afterwards would leave NaN gradients
    return (estimate_BD - residual_BD).square().sum() / torch.where(varies, variance, 1.0) * varies
