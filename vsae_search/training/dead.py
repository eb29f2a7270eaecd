"""Which latents have been silent for too long, and giving them a new start.

Shapes: B batch, D d_in, F d_sae, N resampled latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vsae_search.saes import SparseAutoencoder


class DeadTracker:
    """Rows since each latent last fired, counted on the device.

    Attributes:
        silent_F: Rows since the last firing [F], int64.
        window: Rows of silence after which a latent counts as dead.
    """

    def __init__(self, d_sae: int, *, window: int, device: torch.device | str = "cpu") -> None:
        self.silent_F = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.window = window

    def update(self, fired_F: Tensor, num_rows: int) -> None:
        """Count a batch of ``num_rows`` rows in which the latents ``fired_F`` [F] (bool) fired."""
        self.silent_F.add_(num_rows).masked_fill_(fired_F, 0)

    def dead(self) -> Tensor:
        """Latents that have been silent for the window [F], bool."""
        return self.silent_F >= self.window

    def revive(self, index_N: Tensor) -> None:
        """Start counting again for the latents ``index_N`` [N]."""
        self.silent_F[index_N] = 0


@torch.no_grad()
def resample(
    sae: SparseAutoencoder,
    optimiser: torch.optim.Adam,
    dead_F: Tensor,
    x_BD: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Point dead latents at inputs that are reconstructed badly.

    Inputs are drawn with probability proportional to their squared error; the new direction is the input minus
    ``b_dec``. Encoder column, decoder row, encoder bias *and* the Adam moments of exactly these slices are reset: a
    stale momentum would carry the latent back to where it died.

    Args:
        sae: Autoencoder in training.
        optimiser: Its optimiser.
        dead_F: Latents that count as dead [F], bool; ``sae.resample_candidates`` picks among them.
        x_BD: Activations of one batch [B, D].
        generator: CPU generator of the draw.

    Returns:
        Indices of the latents that were resampled [N]; empty when there is nothing to do or nothing to point at.

    Reference:
        Bricken et al., "Towards Monosemanticity" (2023), appendix on neuron resampling.
    """
    index_N = sae.resample_candidates(dead_F, x_BD).nonzero().squeeze(1)
    # not by `encode`: a threshold calibrated for an evaluation must not decide what training does next
    error_B = (sae.decode(sae.training_code(x_BD)) - x_BD).square().sum(1).double().cpu()
    if len(index_N) == 0 or not 0 < float(error_B.sum()) < float("inf"):
        return index_N[:0]
    enough = int((error_B > 0).sum()) >= len(index_N)
    rows_N = torch.multinomial(error_B, len(index_N), replacement=not enough, generator=generator)
    direction_ND = torch.nn.functional.normalize(x_BD[rows_N.to(x_BD.device)] - sae.b_dec, dim=1)
    sae.replace_latents(index_N, direction_ND, ~dead_F)
    for name, axis in sae.latent_axes().items():
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimiser.state.get(sae.get_parameter(name), {})
            if moment in state:
                state[moment].index_fill_(axis, index_N, 0.0)
    return index_N
