"""The folded inference form of a trained autoencoder, which other formats are written from.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["relu", "topk", "jumprelu"]
_TINY_NORM = 1e-12


@dataclass(frozen=True)
class CanonicalSae:
    """``x -> f -> xhat`` with unit decoder rows and no bias subtraction on the input.

    ``pre = x W_enc + b_enc``; ``f = activation(pre)``; ``xhat = f W_dec + b_dec``, where the activation is

    * ``relu``: ``max(pre, 0)``
    * ``topk``: ``max(pre, 0)`` on the ``k`` largest pre-activations of a token, 0 elsewhere
    * ``jumprelu``: ``max(pre, 0)`` where ``pre > threshold``, 0 elsewhere (a gated autoencoder with tied weights has
      this form too, with ``threshold = b_mag - b_gate exp(r_mag)``)

    A subtracted decoder bias is folded into ``b_enc`` (``b_enc - b_dec W_enc``). Rows of ``W_dec`` have norm 1 (a row
    that is exactly 0 stays 0), and ``f`` is therefore in units of activation norm: two latents can be compared.

    Attributes:
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F].
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D].
        activation: Which of the three activations is applied.
        threshold_F: Firing thresholds [F]; only with ``jumprelu``.
        k: Latents kept per token; only with ``topk``.
    """

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    activation: Activation = "relu"
    threshold_F: Tensor | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        assert (self.threshold_F is not None) == (self.activation == "jumprelu"), "jumprelu needs a threshold"
        assert (self.k is not None) == (self.activation == "topk"), "topk needs k"

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of activations [B, D]."""
        pre_BF = torch.addmm(self.b_enc_F, x_BD, self.W_enc_DF)
        if self.k is not None:
            values_BK, index_BK = pre_BF.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre_BF).scatter_(-1, index_BK, values_BK.relu())
        if self.threshold_F is not None:
            return pre_BF.relu() * (pre_BF > self.threshold_F)
        return pre_BF.relu()

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstruction [B, D] of a code [B, F]."""
        return torch.addmm(self.b_dec_D, f_BF, self.W_dec_FD)

    def __call__(self, x_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of activations [B, D]."""
        return self.decode(self.encode(x_BD))

    def for_raw_inputs(self, scale: float) -> CanonicalSae:
        """The same autoencoder for activations that were not multiplied by ``scale``.

        Codes come out in raw activation units, ``1 / scale`` times those of the scaled form; reconstructions likewise.

        Args:
            scale: The factor that training activations were multiplied by.

        Returns:
            ``g`` with ``g(x) = self(scale x) / scale``.
        """
        assert scale > 0, "the input scale is positive"
        # f' = f / s with the same unit W_dec: W_enc acts on s x and is divided by s again, so it does not change.
        threshold_F = None if self.threshold_F is None else self.threshold_F / scale
        return replace(self, b_enc_F=self.b_enc_F / scale, b_dec_D=self.b_dec_D / scale, threshold_F=threshold_F)


@torch.no_grad()
def fold(
    W_enc_DF: Tensor,
    b_enc_F: Tensor,
    W_dec_FD: Tensor,
    b_dec_D: Tensor,
    *,
    subtract_b_dec: bool,
    activation: Activation = "relu",
    threshold_F: Tensor | None = None,
    k: int | None = None,
) -> CanonicalSae:
    """Fold decoder norms and a subtracted decoder bias into the encoder; the inputs are not changed.

    With ``n_i`` the norm of decoder row ``i``: ``w_i / n_i``, encoder column, bias and threshold times ``n_i``. A
    ``topk`` with a free decoder must select on ``pre_i n_i`` for the fold to be exact.

    Args:
        W_enc_DF: Encoder weights [D, F].
        b_enc_F: Encoder bias [F].
        W_dec_FD: Decoder weights [F, D].
        b_dec_D: Decoder bias [D].
        subtract_b_dec: Whether the encoder sees ``x - b_dec``.
        activation: Activation kind.
        threshold_F: Firing thresholds [F] in the units of the unfolded pre-activation (``jumprelu``).
        k: Latents kept per token (``topk``).

    Returns:
        The folded form; its tensors share no memory with the arguments.
    """
    norm_F = torch.linalg.vector_norm(W_dec_FD, dim=1)
    bias_F = b_enc_F - b_dec_D @ W_enc_DF if subtract_b_dec else b_enc_F
    return CanonicalSae(
        W_enc_DF=W_enc_DF * norm_F,
        b_enc_F=bias_F * norm_F,
        W_dec_FD=W_dec_FD / norm_F.clamp_min(_TINY_NORM)[:, None],
        b_dec_D=b_dec_D.clone(),
        activation=activation,
        threshold_F=None if threshold_F is None else threshold_F * norm_F,
        k=k,
    )
