"""Adam as the architecture asks for it, and gradient clipping that never waits for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from vsae_search.saes import SparseAutoencoder


def trainable(sae: SparseAutoencoder) -> dict[str, nn.Parameter]:
    """Parameters that the optimiser moves, by name."""
    return {name: parameter for name, parameter in sae.named_parameters() if parameter.requires_grad}


def build_adam(sae: SparseAutoencoder) -> torch.optim.Adam:
    """Adam without weight decay, with the architecture's betas and epsilon; fused where the device supports it.

    The fused form makes one pass over weights and moments; where it is refused, the foreach form computes the same.
    """
    parameters = list(trainable(sae).values())
    lr, betas, eps = sae.config.lr, sae.adam_betas, sae.adam_eps
    try:
        return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, fused=True)
    except RuntimeError:
        return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, foreach=True)


@torch.no_grad()
def clip_gradients_(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients, in place, so that their joint norm is at most ``max_norm``.

    Args:
        parameters: Parameters; those without a gradient are skipped.
        max_norm: Largest norm allowed.

    Returns:
        Norm before clipping: a scalar tensor on the device, because reading it would wait.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm
