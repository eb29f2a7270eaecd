"""ReLU autoencoder whose L1 penalty is annealed towards a count of firing latents.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from vsae_search.saes._sparse import selected_preactivations, sparse_reconstruction_loss
from vsae_search.saes._sparse_select import Above, threshold_pays
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.registry import register
from vsae_search.saes.relu import Relu, ReluConfig

if TYPE_CHECKING:
    from torch import Tensor

POWER_FLOOR = 1e-6
"""Codes below this count as this in the slope of the penalty, which would otherwise be infinite at 0."""


class PAnnealConfig(ReluConfig):
    """Hyper-parameters of :class:`PAnneal`."""

    l1_coefficient: float = Field(
        default=0.5, ge=0, description="Weight of the penalty while p is 1, that is an L1 penalty (about 0.05 to 5)."
    )
    p_end: float = Field(default=0.2, gt=0, le=1, description="Exponent p at the end of training (0.2 to 0.5).")
    anneal_start: float = Field(
        default=0.15, ge=0, lt=1, description="Share of training after which p falls linearly from 1."
    )
    anneal_updates: int = Field(default=10, gt=0, description="Number of equal steps in which p falls.")


def power_mass(f_BF: Tensor, p: float | Tensor) -> Tensor:
    """``Σ_b f^p`` of each latent [F] for a non-negative code [B, F].

    Its gradient is ``p max(f, 1e-6)^(p - 1)``: finite everywhere, and that of ``f^p`` from 1e-6 on. A latent that does
    not fire adds exactly 0.
    """
    slope_BF = f_BF.detach().clamp_min(POWER_FLOOR).pow_(p - 1)
    mass_F = (f_BF * slope_BF).sum(0)
    # the slope was held constant, which leaves out the factor p of the derivative and nothing else
    return p * mass_F + (1 - p) * mass_F.detach()


@register("p_anneal")
class PAnneal(Relu):
    """``f = ReLU((x - b_dec) W_enc + b_enc)``, loss ``‖x - xhat‖² + λ_s Σ f^p_s``, ``‖w_i‖ = 1``.

    ``p`` falls from 1 to ``p_end`` in equal steps. Whenever it changes, ``λ_s`` is rescaled so that the penalty of the
    batch at hand stays what it was; the balance that ``l1_coefficient`` set up is kept while the shape changes.

    Reference:
        Karvonen et al., "Measuring progress in dictionary learning for language model interpretability with board
        game models" (2024), section 3.
    """

    Config: ClassVar[type[SaeConfig]] = PAnnealConfig
    config: PAnnealConfig
    exponent: Tensor
    penalty_scale: Tensor

    def build(self) -> None:
        """Add the present exponent [] and the factor [] by which the penalty's weight has been rescaled."""
        self.register_buffer("exponent", torch.ones(()))
        self.register_buffer("penalty_scale", torch.ones(()))
        self._known_exponent: float | None = None

    def exponent_at(self, progress: float) -> float:
        """Exponent ``p`` at a share of training: 1, then one of ``anneal_updates`` equal steps down to ``p_end``."""
        start, updates = self.config.anneal_start, self.config.anneal_updates
        if progress < start:
            return 1.0
        done = math.floor(updates * (progress - start) / (1 - start) + 1e-9) + 1  # no update comes late by rounding
        return 1.0 + (self.config.p_end - 1.0) * min(done, updates) / updates

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE plus the warmed-up penalty, mean over tokens."""
        if threshold_pays(self, x_BD):
            ((f_N, _, support),) = selected_preactivations(self, x_BD, [Above(0.0)])
            reconstruction, _ = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
            fired_F = support.sum_by_latent(f_N.detach()) > 0
            f_BF = f_N[None]  # the penalty is a sum over all entries, wherever they are
        else:
            f_BF = self.encode(x_BD)
            reconstruction, _ = self.reconstruction(f_BF, x_BD)
            fired_F = f_BF.detach().sum(0) > 0
        p = self.exponent_at(progress)
        if p != self._known_exponent:
            self._change_exponent(f_BF, p)
        mass_F = f_BF.sum(0) if p == 1 else power_mass(f_BF, p)
        weight = self.penalty_scale * (self.config.l1_coefficient * self.warm_up(progress) / len(x_BD))
        penalty = mass_F.sum() * weight
        return Loss(reconstruction + penalty, reconstruction, {"lp": penalty}, fired_F)

    @torch.no_grad()
    def _change_exponent(self, f_BF: Tensor, p: float) -> None:
        """Move on to ``p`` with the same penalty; the old exponent is read on the device, without waiting for it."""
        before, after = power_mass(f_BF, self.exponent).sum(), power_mass(f_BF, p).sum()
        # equal exponents occur after a resume, and must then change no bit; an all-zero code says nothing
        changes = (self.exponent != torch.full_like(self.exponent, p)) & (before > 0) & (after > 0)
        self.penalty_scale.mul_(torch.where(changes, before / torch.where(changes, after, 1.0), 1.0))
        self.exponent.fill_(p)
        self._known_exponent = p
