"""Variational autoencoder with a spike-and-slab posterior and prior: every latent has a gate.

Shapes: B batch, D d_in, F d_sae, N replaced latents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import nn

from vsae_search.errors import UnsupportedExport
from vsae_search.saes._affine import encoder_affine
from vsae_search.saes._jump import fold_with_threshold
from vsae_search.saes._posterior import Moments, spike_slab
from vsae_search.saes._variational import SparsePriorConfig, SparsePriorSae
from vsae_search.saes.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from vsae_search.saes.base import SaeConfig
    from vsae_search.saes.canonical import CanonicalSae

_LOG_GAIN_MIN, _LOG_GAIN_MAX = -2.0, 5.0


class VsaeSpikeSlabConfig(SparsePriorConfig):
    """Hyper-parameters of :class:`VsaeSpikeSlab`."""

    slab_mean: float = Field(
        default=0.0, ge=0, description="Mean of the prior of a firing latent, in units of its standard deviation."
    )
    tied_gate: bool = Field(
        default=True,
        description="The gate is a learned threshold on the latent's own pre-activation; otherwise it has an encoder "
        "matrix of its own (two more matrix products per step, and no form that other libraries can load).",
    )


@register("vsae_spike_slab")
class VsaeSpikeSlab(SparsePriorSae):
    """``q(z|x) = γ N(μ, σ²) + (1 - γ) δ₀``, ``p(z) = α N(m, s²) + (1 - α) δ₀``, factorised over latents.

    ``π = (x - b_dec) W_enc + b_enc`` and ``μ = ReLU(π)``. With the tied gate ``γ = sigmoid(g (π - θ))``: gain ``g > 0``
    and threshold ``θ`` are learned for every latent. This is the gate of a gated autoencoder with shared weights, in
    coordinates in which sharpening a gate does not move its threshold. The code is ``f = μ 1[γ > 1/2]``, that is,
    ``π 1[π > max(θ, 0)]``: a JumpReLU.

    ``α = prior_l0 / d_sae`` and ``s² = prior_scale d_in / prior_l0``. Divergence and expectation are exact
    (:func:`~vsae_search.saes._posterior.spike_slab`), so there is neither sampling nor a relaxed gate; the gradient of
    the gate is that of the objective.

    Reference:
        Tonolini, Jensen & Murray-Smith, "Variational sparse coding" (2019), without its relaxation.
    """

    Config: ClassVar[type[SaeConfig]] = VsaeSpikeSlabConfig
    config: VsaeSpikeSlabConfig
    gate_threshold: nn.Parameter
    log_gate_gain: nn.Parameter
    W_gate: nn.Parameter
    b_gate: nn.Parameter

    def build(self) -> None:
        """Add the gate: threshold and log-gain [F], or weights [D, F] and bias [F]."""
        super().build()
        presence = self.initial_presence()
        self._initial_gate_logit = math.log(presence) - math.log1p(-presence)
        d_in, d_sae = self.config.d_in, self.config.d_sae
        if self.config.tied_gate:
            self.gate_threshold = nn.Parameter(torch.full((d_sae,), -self._initial_gate_logit))
            self.log_gate_gain = nn.Parameter(torch.zeros(d_sae))
        else:
            self.W_gate = nn.Parameter(torch.zeros(d_in, d_sae))
            self.b_gate = nn.Parameter(torch.full((d_sae,), self._initial_gate_logit))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """As the base; an untied gate starts as the encoder."""
        super().reset_parameters(generator)
        if not self.config.tied_gate:
            self.W_gate.copy_(self.W_enc)

    def gate_logits(self, x_BD: Tensor, pre_BF: Tensor) -> Tensor:
        """``logit γ`` [B, F] of scaled activations [B, D] with pre-activations [B, F]."""
        if self.config.tied_gate:
            return (pre_BF - self.gate_threshold) * self.log_gate_gain.exp()
        return encoder_affine(x_BD, self.W_gate, self.b_gate, self.b_dec)

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F]: the slab's mean where the gate is more likely open than closed, exactly 0 elsewhere."""
        pre_BF = self.preactivations(x_BD)
        if self.config.tied_gate:
            return pre_BF.relu() * (pre_BF > self.gate_threshold)
        return pre_BF.relu() * (self.gate_logits(x_BD, pre_BF) > 0)

    def posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor]:
        """Moments of the spike-and-slab posterior, and which latents fired."""
        return self.gated_posterior(x_BD)[:2]

    def gated_posterior(self, x_BD: Tensor) -> tuple[Moments, Tensor, Tensor]:
        """As :meth:`posterior`, and ``logit γ`` [B, F]."""
        pre_BF = self.preactivations(x_BD)
        logit_BF = self.gate_logits(x_BD, pre_BF)
        variance = self.config.prior_variance
        moments = spike_slab(
            pre_BF.relu(),
            logit_BF,
            self.log_variance,
            alpha=self.config.alpha,
            prior_mean=self.config.slab_mean * math.sqrt(variance),
            prior_variance=variance,
        )
        return moments, torch.minimum(pre_BF.detach(), logit_BF.detach()).amax(0) > 0, logit_BF

    def presence(self, x_BD: Tensor) -> Tensor:
        """``γ`` [B, F]."""
        return self.gate_logits(x_BD, self.preactivations(x_BD)).sigmoid()

    def after_step(self) -> None:
        """As the base; log-gains clamped as parameters."""
        super().after_step()
        if self.config.tied_gate:
            self.log_gate_gain.data.clamp_(_LOG_GAIN_MIN, _LOG_GAIN_MAX)

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, but with encoder columns of the norm of living ones, and the gate starts again.

        The base starts a latent at a fifth of that norm, so that it fires weakly; behind a gate it would not fire.
        """
        super().replace_latents(index_N, direction_ND, alive_F)
        self.W_enc[:, index_N] *= 5.0
        if self.config.tied_gate:
            self.gate_threshold[index_N] = -self._initial_gate_logit
            self.log_gate_gain[index_N] = 0.0
        else:
            self.W_gate[:, index_N] = self.W_enc[:, index_N]
            self.b_gate[index_N] = self._initial_gate_logit

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        gate = {"gate_threshold": 0, "log_gate_gain": 0} if self.config.tied_gate else {"W_gate": 1, "b_gate": 0}
        return super().latent_axes() | gate

    def canonical(self) -> CanonicalSae:
        """Folded inference form, a JumpReLU with the gate's thresholds.

        Raises:
            UnsupportedExport: The gate has weights of its own.
        """
        if not self.config.tied_gate:
            raise UnsupportedExport(
                f"{self.name} with an untied gate has no folded form", "train it with tied_gate: true to export it"
            )
        return fold_with_threshold(self, self.gate_threshold)
