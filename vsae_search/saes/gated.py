"""Gated autoencoder: one map decides which latents fire, a rescaled copy of it decides how strongly.

Shapes: B batch, b rows of a block, D d_in, F d_sae, N entries whose gate is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vsae_search.saes._affine import reconstruction_loss
from vsae_search.saes._rectified import row_blocks, zero_where_silent_
from vsae_search.saes._sparse import selected_preactivations, sparse_reconstruction_loss
from vsae_search.saes._sparse_select import Above, threshold_pays
from vsae_search.saes.base import Loss, SaeConfig
from vsae_search.saes.canonical import CanonicalSae, fold
from vsae_search.saes.registry import register
from vsae_search.saes.relu import Relu, ReluConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


class GatedConfig(ReluConfig):
    """Hyper-parameters of :class:`Gated`."""

    l1_coefficient: float = Field(
        default=1.0, ge=0, description="Weight of the L1 penalty on the gate's pre-activations (about 0.1 to 10)."
    )


class _GatedEncoder(torch.autograd.Function):
    """Code, rectified gate and the gate's mass per latent; see :meth:`Gated.encode_both`.

    By hand, because the gate is shared by three losses that must reach different parameters, and because autograd
    would pass over [B, F] twice as often.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BD, W_enc_DF, b_gate_F, r_mag_F, b_mag_F, b_dec_D = inputs
        centred_BD, gain_F = x_BD - b_dec_D, r_mag_F.exp()
        gate_BF = x_BD.new_empty(len(x_BD), W_enc_DF.shape[1])
        f_BF, mass_F = torch.empty_like(gate_BF), torch.zeros_like(gain_F)
        offset_F = b_mag_F - b_gate_F * gain_F
        for rows in row_blocks(gate_BF):
            gate_bF = torch.addmm(b_gate_F, centred_BD[rows], W_enc_DF, out=gate_BF[rows]).relu_()
            mass_F += gate_bF.sum(0)
            # where the gate is open it equals its pre-activation, and the magnitude is an affine function of it
            zero_where_silent_(torch.addcmul(offset_F, gate_bF, gain_F, out=f_BF[rows]).relu_(), gate_bF)
        ctx.save_for_backward(centred_BD, W_enc_DF, b_gate_F, gain_F, gate_BF, f_BF)
        ctx.set_materialize_grads(False)
        return f_BF, gate_BF, mass_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        centred_BD, W_enc_DF, b_gate_F, gain_F, gate_BF, f_BF = ctx.saved_tensors
        df_BF, dgate_BF, dmass_F = grads
        dmass_F = torch.zeros_like(gain_F) if dmass_F is None else dmass_F
        db_mag_F, dr_mag_F, db_gate_F, count_F = (torch.zeros_like(gain_F) for _ in range(4))
        dW_enc_DF = torch.zeros_like(W_enc_DF)
        dx_BD = torch.empty_like(centred_BD) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(gate_BF):
            gate_bF = gate_BF[rows]
            dmagnitude_bF = torch.zeros_like(gate_bF) if df_BF is None else df_BF[rows].clone()
            zero_where_silent_(dmagnitude_bF, f_BF[rows])
            db_mag_F += dmagnitude_bF.sum(0)
            dr_mag_F += (dmagnitude_bF * gate_bF).sum(0)
            dpre_bF = dmass_F.expand_as(gate_bF).clone() if dgate_BF is None else dgate_BF[rows] + dmass_F
            db_gate_F += zero_where_silent_(dpre_bF, gate_bF).sum(0)
            dW_enc_DF.addmm_(centred_BD[rows].T, dpre_bF.addcmul_(dmagnitude_bF, gain_F))
            count_F += gate_bF.sign().sum(0)
            if dx_BD is not None:
                torch.mm(dpre_bF, W_enc_DF.T, out=dx_BD[rows])
        dr_mag_F = gain_F * (dr_mag_F - b_gate_F * db_mag_F)
        # b_dec hears of the reconstruction and of the penalty, not of the auxiliary loss (`dgate`)
        db_dec_D = torch.mv(W_enc_DF, gain_F * db_mag_F + dmass_F * count_F).neg_()
        return dx_BD, dW_enc_DF, db_gate_F, dr_mag_F, db_mag_F, db_dec_D


@register("gated")
class Gated(Relu):
    """``f = 1[π_g > 0] ReLU(π_m)`` with ``π_g = u + b_enc``, ``π_m = u exp(r_mag) + b_mag``, ``u = (x - b_dec) W_enc``.

    Loss ``‖x - xhat(f)‖² + λ Σ ReLU(π_g) + ‖x - ReLU(π_g) W_dec - b_dec‖²`` with ``‖w_i‖ = 1``. The step function
    passes no gradient, so the gate learns from the last two terms. In the last one, the auxiliary loss, ``W_dec`` and
    ``b_dec`` are constants wherever they occur: it trains the gate to detect and moves nothing else.

    Reference:
        Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders" (2024), equations 6-8.
    """

    Config: ClassVar[type[SaeConfig]] = GatedConfig
    adam_betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    config: GatedConfig
    r_mag: nn.Parameter
    b_mag: nn.Parameter

    def build(self) -> None:
        """Add the log-gain ``r_mag`` [F] and the bias ``b_mag`` [F] of the magnitudes; ``b_enc`` is the gate's bias."""
        self.r_mag = nn.Parameter(torch.zeros(self.config.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.config.d_sae))

    def encode_both(self, x_BD: Tensor) -> Sequence[Tensor]:
        """Code [B, F], rectified gate ``ReLU(π_g)`` [B, F] and the gate's sum over tokens [F]."""
        both: Sequence[Tensor] = _GatedEncoder.apply(  # type: ignore[no-untyped-call]
            x_BD, self.W_enc, self.b_enc, self.r_mag, self.b_mag, self.b_dec
        )
        return both

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        return self.encode_both(x_BD)[0]

    def loss(self, x_BD: Tensor, progress: float) -> Loss:
        """Sum-MSE, the warmed-up L1 penalty on the gate and the auxiliary loss, mean over tokens."""
        parts = self._sparse_parts(x_BD) if threshold_pays(self, x_BD) else self._parts(x_BD)
        reconstruction, auxiliary, mass_F, fired_F = parts
        l1 = mass_F.sum() * (self.config.l1_coefficient * self.warm_up(progress) / len(x_BD))
        total = reconstruction + l1 + auxiliary
        return Loss(total, reconstruction, {"l1": l1, "auxiliary": auxiliary}, fired_F)

    def _parts(self, x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruction loss, auxiliary loss, the gate's sum over tokens [F] and which latents fire [F]."""
        f_BF, gate_BF, mass_F = self.encode_both(x_BD)
        auxiliary, _ = reconstruction_loss(gate_BF, self.W_dec.detach(), self.b_dec.detach(), x_BD)
        return self.reconstruction(f_BF, x_BD)[0], auxiliary, mass_F, f_BF.detach().sum(0) > 0

    def _sparse_parts(self, x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same from the entries whose gate is open."""
        ((gate_N, held_N, support),) = selected_preactivations(self, x_BD, [Above(0.0)])
        gain_F = self.r_mag.exp()
        offset_N = (self.b_mag - self.b_enc * gain_F).index_select(0, support.latent_N)
        f_N = (offset_N + gate_N * gain_F.index_select(0, support.latent_N)).relu()
        reconstruction, _ = sparse_reconstruction_loss(f_N, support, self.W_dec, self.b_dec, x_BD)
        auxiliary, _ = sparse_reconstruction_loss(held_N, support, self.W_dec.detach(), self.b_dec.detach(), x_BD)
        fired_F = support.sum_by_latent(f_N.detach()) > 0
        return reconstruction, auxiliary, support.sum_by_latent(gate_N), fired_F

    def latent_axes(self) -> dict[str, int]:
        """Axis that counts latents, for every parameter that has one."""
        return super().latent_axes() | {"r_mag": 0, "b_mag": 0}

    @torch.no_grad()
    def replace_latents(self, index_N: Tensor, direction_ND: Tensor, alive_F: Tensor) -> None:
        """As the base, and magnitude and gate start out equal again."""
        super().replace_latents(index_N, direction_ND, alive_F)
        self.r_mag[index_N] = 0.0
        self.b_mag[index_N] = 0.0

    @torch.no_grad()
    def canonical(self) -> CanonicalSae:
        """Folded inference form: the gate opens where the magnitude exceeds ``b_mag - b_enc exp(r_mag)``."""
        gain_F = self.r_mag.exp()
        threshold_F = self.b_mag - self.b_enc * gain_F
        return fold(
            self.W_enc * gain_F,
            self.b_mag,
            self.W_dec,
            self.b_dec,
            subtract_b_dec=True,
            activation="jumprelu",
            threshold_F=threshold_F,
        )
