"""One-layer models as TransformerLens rewrites them: LayerNorm folded into the next weights, writing weights centred.

The rewritten model predicts the same; its activations differ, by a shift of all coordinates that every reader of the
residual stream ignores. Autoencoders from the years of ``HookedTransformer`` were trained on models in this form.

Shapes: D residual stream, H heads, K head dimensions, M neurons, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vsae_search.subjects.tiny_gelu_1l.model import OneLayerModel


@torch.no_grad()
def fold(model: OneLayerModel) -> OneLayerModel:
    """Rewrite a model in place, in float64 so that nothing is lost, and return it."""
    tensors = {name: value.double() for name, value in model.state_dict().items()}
    block = "blocks.0."
    for name in ("Q", "K", "V"):
        _fold_norm(tensors, f"{block}ln1", f"{block}attn.W_{name}", f"{block}attn.b_{name}")
    _fold_norm(tensors, f"{block}ln2", f"{block}mlp.W_in", f"{block}mlp.b_in")
    _fold_norm(tensors, "ln_final", "unembed.W_U", "unembed.b_U")
    for norm in (f"{block}ln1", f"{block}ln2", "ln_final"):
        tensors[f"{norm}.w"] = torch.ones_like(tensors[f"{norm}.w"])
        tensors[f"{norm}.b"] = torch.zeros_like(tensors[f"{norm}.b"])
    value, bias = tensors[f"{block}attn.W_O"], tensors[f"{block}attn.b_V"]
    tensors[f"{block}attn.b_O"] += torch.einsum("hk,hkd->d", bias, value)  # attention weights add up to 1
    tensors[f"{block}attn.b_V"] = torch.zeros_like(bias)
    writers = ("embed.W_E", "pos_embed.W_pos", f"{block}attn.W_O", f"{block}attn.b_O", f"{block}mlp.W_out")
    for name in (*writers, f"{block}mlp.b_out"):
        tensors[name] -= tensors[name].mean(dim=-1, keepdim=True)
    for name in ("unembed.W_U", "unembed.b_U"):
        tensors[name] -= tensors[name].mean(dim=-1, keepdim=True)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model


def _fold_norm(tensors: dict[str, Any], norm: str, weight: str, bias: str) -> None:
    """Move scale and shift of a LayerNorm into the weight that reads it: [D, *] or, for heads, [H, D, K]."""
    shift_D, scale_D = tensors[f"{norm}.b"], tensors[f"{norm}.w"]
    tensors[bias] = tensors[bias] + torch.einsum("d,...dk->...k", shift_D, tensors[weight])
    tensors[weight] = tensors[weight] * scale_D[:, None]
