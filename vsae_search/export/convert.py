"""From a trained autoencoder to plain tensors for activations as the model has them.

An architecture takes part through :meth:`~vsae_search.saes.SparseAutoencoder.canonical`, so a new one can be exported
without a change here. Three families keep more than that form holds, because other libraries have a class for them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vsae_search.errors import UnsupportedExport
from vsae_search.export.plain import PlainSae
from vsae_search.saes.batch_topk import BatchTopK
from vsae_search.saes.gated import Gated
from vsae_search.saes.matryoshka import Matryoshka
from vsae_search.saes.vsae_mix import VsaeMix
from vsae_search.saes.vsae_spike_slab import VsaeSpikeSlab

if TYPE_CHECKING:
    from vsae_search.saes import SparseAutoencoder

_SAMPLE_ROWS, _TOLERANCE = 64, 1e-6


@torch.no_grad()
def plain_form(sae: SparseAutoencoder, scale: float) -> PlainSae:
    """The inference form of a trained autoencoder, with the input scale and then the decoder norms folded in.

    Its reconstruction of an activation ``x`` is that of ``sae`` for ``scale x``, divided by ``scale``; its code is
    that of ``sae`` divided by ``scale``, so a latent's value is the length that it adds to the reconstruction.

    Args:
        sae: Any architecture, trained on activations times ``scale``.
        scale: The factor, positive.

    Returns:
        The form in float64; it subtracts ``b_dec`` from the input where ``sae`` does.

    Raises:
        UnsupportedExport: The architecture has no inference form of a kind that is known here.
    """
    exact = copy.deepcopy(sae).to("cpu", torch.float64).requires_grad_(False)
    plain = _unfolded(exact)
    _require_same_code(exact, plain)
    return plain.for_unscaled_inputs(scale).with_unit_decoder()


def _require_same_code(sae: SparseAutoencoder, plain: PlainSae) -> None:
    """Refuse an architecture whose inference form is not its code, on rows like those it was trained on."""
    x_BD = torch.randn(_SAMPLE_ROWS, plain.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours_BD, theirs_BD = sae.decode(sae.encode(x_BD)), plain.decode(plain.encode(x_BD))
    if not torch.allclose(ours_BD, theirs_BD, rtol=0.0, atol=_TOLERANCE * float(x_BD.abs().max())):
        raise UnsupportedExport(
            f"the code of {sae.name} is not one that its canonical() describes, so it has no form that others can read",
            "give the architecture a canonical() of its own that reproduces encode(), or raises UnsupportedExport",
        )


def _unfolded(sae: SparseAutoencoder) -> PlainSae:
    if isinstance(sae, Gated):
        return _gated(sae)
    if isinstance(sae, VsaeSpikeSlab) and _has_gate_of_its_own(sae):
        return _two_encoders(sae)
    plain = _from_canonical(sae)
    if isinstance(sae, BatchTopK):
        plain = replace(plain, mean_k=sae.config.k)
    if isinstance(sae, Matryoshka):
        plain = replace(plain, widths=sae.widths())
    return plain


def _has_gate_of_its_own(sae: VsaeSpikeSlab) -> bool:
    legacy = isinstance(sae, VsaeMix) and sae.config.legacy_seed
    return not sae.config.tied_gate and not legacy


def _from_canonical(sae: SparseAutoencoder) -> PlainSae:
    form = sae.canonical()
    plain = PlainSae(
        kind=form.activation,
        W_enc_DF=form.W_enc_DF,
        b_enc_F=form.b_enc_F,
        W_dec_FD=form.W_dec_FD,
        b_dec_D=form.b_dec_D,
        subtracts_b_dec=False,
        k=form.k,
        threshold_F=form.threshold_F,
    )
    return plain.with_input_bias(sae.subtract_b_dec)


def _gated(sae: Gated) -> PlainSae:
    return PlainSae(
        kind="gated",
        W_enc_DF=sae.W_enc,
        b_enc_F=sae.b_enc,
        W_dec_FD=sae.W_dec,
        b_dec_D=sae.b_dec,
        subtracts_b_dec=True,
        r_mag_F=sae.r_mag,
        b_mag_F=sae.b_mag,
    )


def _two_encoders(sae: VsaeSpikeSlab) -> PlainSae:
    return PlainSae(
        kind="two_encoders",
        W_enc_DF=sae.W_enc,
        b_enc_F=sae.b_enc,
        W_dec_FD=sae.W_dec,
        b_dec_D=sae.b_dec,
        subtracts_b_dec=True,
        W_gate_DF=sae.W_gate,
        b_gate_F=sae.b_gate,
    )
