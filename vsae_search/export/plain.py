"""One autoencoder as plain tensors: what every foreign format is written from and read into.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing import Self

Kind = Literal["relu", "topk", "jumprelu", "gated", "two_encoders"]
_UNIT_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class PlainSae:
    """``u = (x - b_dec) W_enc`` (or ``x W_enc``), a code from ``u``, and ``xhat = f W_dec + b_dec``.

    The code ``f`` is, by kind,

    * ``relu``: ``max(u + b_enc, 0)``
    * ``topk``: the same on the ``k`` largest of a token, 0 elsewhere
    * ``jumprelu``: ``max(u + b_enc, 0)`` where ``u + b_enc > threshold``, 0 elsewhere
    * ``gated``: ``max(u exp(r_mag) + b_mag, 0)`` where ``u + b_enc > 0``, 0 elsewhere
    * ``two_encoders``: ``max(u + b_enc, 0)`` where ``(x - b_dec) W_gate + b_gate > 0``, 0 elsewhere

    Attributes:
        kind: Which of these.
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F]; of a gated one the bias of its gate.
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D].
        subtracts_b_dec: Whether the encoder sees ``x - b_dec``.
        k: Latents kept per token; only ``topk``.
        threshold_F: Firing thresholds [F]; only ``jumprelu``.
        r_mag_F: Log-gain of the magnitudes [F]; only ``gated``.
        b_mag_F: Bias of the magnitudes [F]; only ``gated``.
        W_gate_DF: Weights of the gate [D, F]; only ``two_encoders``.
        b_gate_F: Bias of the gate [F]; only ``two_encoders``.
        mean_k: Mean L0 that one threshold for all latents was fitted to; None where thresholds are learned.
        widths: Ends of nested dictionaries, the last one F; empty where there is one dictionary.
    """

    kind: Kind
    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    subtracts_b_dec: bool
    k: int | None = None
    threshold_F: Tensor | None = None
    r_mag_F: Tensor | None = None
    b_mag_F: Tensor | None = None
    W_gate_DF: Tensor | None = None
    b_gate_F: Tensor | None = None
    mean_k: int | None = None
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert (self.k is not None) == (self.kind == "topk"), "topk needs k"
        assert (self.threshold_F is not None) == (self.kind == "jumprelu"), "jumprelu needs a threshold"
        assert (self.r_mag_F is not None) == (self.b_mag_F is not None) == (self.kind == "gated"), (
            "gated has magnitudes"
        )
        assert (self.W_gate_DF is not None) == (self.b_gate_F is not None) == (self.kind == "two_encoders")

    @property
    def d_in(self) -> int:
        """Width of the activations, D."""
        return self.W_enc_DF.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents, F."""
        return self.W_enc_DF.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, by attribute."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def as_float32(self) -> Self:
        """The same in single precision."""
        changes: dict[str, Any] = {name: tensor.float() for name, tensor in self.tensors().items()}
        return replace(self, **changes)

    # -- maps -------------------------------------------------------------------------------------------------------

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of activations [B, D]."""
        seen_BD = x_BD - self.b_dec_D if self.subtracts_b_dec else x_BD
        u_BF = seen_BD @ self.W_enc_DF
        pre_BF = u_BF + self.b_enc_F
        if self.k is not None:
            values_BK, index_BK = pre_BF.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre_BF).scatter_(-1, index_BK, values_BK.relu())
        if self.threshold_F is not None:
            return pre_BF.relu() * (pre_BF > self.threshold_F)
        if self.r_mag_F is not None and self.b_mag_F is not None:
            return (u_BF * self.r_mag_F.exp() + self.b_mag_F).relu() * (pre_BF > 0)
        if self.W_gate_DF is not None and self.b_gate_F is not None:
            return pre_BF.relu() * (seen_BD @ self.W_gate_DF + self.b_gate_F > 0)
        return pre_BF.relu()

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstruction [B, D] of a code [B, F]."""
        return f_BF @ self.W_dec_FD + self.b_dec_D

    # -- the same autoencoder in other coordinates --------------------------------------------------------------------

    def for_unscaled_inputs(self, scale: float) -> Self:
        """``g`` with ``g(x) = self(scale x) / scale`` and the same code."""
        assert scale > 0, "the input scale is positive"
        gate_DF = None if self.W_gate_DF is None else self.W_gate_DF * scale
        return replace(
            self,
            W_enc_DF=self.W_enc_DF * scale,
            W_dec_FD=self.W_dec_FD / scale,
            b_dec_D=self.b_dec_D / scale,
            W_gate_DF=gate_DF,
        )

    def with_unit_decoder(self) -> Self:
        """The same map with decoder rows of norm 1; the code becomes ``f_i ‖w_i‖``, in units of activation norm.

        A latent that writes nothing gets a direction and never fires: other libraries divide by the norm. A ``topk``
        whose rows differ in norm chooses by its pre-activations, which the norms would change: it stays as it is.
        """
        norm_F = torch.linalg.vector_norm(self.W_dec_FD, dim=1)
        if self.kind == "topk" and not torch.allclose(norm_F, norm_F.mean(), rtol=_UNIT_TOLERANCE, atol=0.0):
            return self
        directions_FD = self.W_dec_FD / torch.where(norm_F > 0, norm_F, 1.0)[:, None]
        directions_FD[norm_F == 0, 0] = 1.0
        return replace(
            self,
            W_enc_DF=self.W_enc_DF * norm_F,
            b_enc_F=self.b_enc_F * norm_F,
            W_dec_FD=directions_FD,
            threshold_F=None if self.threshold_F is None else self.threshold_F * norm_F,
            b_mag_F=None if self.b_mag_F is None else self.b_mag_F * norm_F,
        )

    def with_input_bias(self, subtracted: bool) -> Self:
        """The same map with or without the subtraction of ``b_dec`` from the input; biases take up the difference."""
        if subtracted == self.subtracts_b_dec:
            return self
        sign = 1.0 if subtracted else -1.0
        shift_F = sign * (self.b_dec_D @ self.W_enc_DF)
        b_mag_F, b_gate_F = self.b_mag_F, self.b_gate_F
        if self.r_mag_F is not None and b_mag_F is not None:
            b_mag_F = b_mag_F + shift_F * self.r_mag_F.exp()
        if self.W_gate_DF is not None and b_gate_F is not None:
            b_gate_F = b_gate_F + sign * (self.b_dec_D @ self.W_gate_DF)
        return replace(
            self, b_enc_F=self.b_enc_F + shift_F, b_mag_F=b_mag_F, b_gate_F=b_gate_F, subtracts_b_dec=subtracted
        )
