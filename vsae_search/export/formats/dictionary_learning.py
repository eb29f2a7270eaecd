"""dictionary_learning: a folder with ``ae.pt`` (a state dict of ``torch.save``) and ``config.json``.

Its ``load_dictionary`` reads the folder. What none of its classes computes is written with a file
``untied_gate_dictionary.py`` beside it, whose class reads the same ``ae.pt``.

Shapes: D d_in, F d_sae.
"""

from __future__ import annotations

import io
import json
import re
from importlib import resources
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.export.formats import Read, Written
from vsae_search.export.formats._checks import require_file, require_shapes, text, whole
from vsae_search.export.plain import PlainSae
from vsae_search.saes.tensor_file import read_json
from vsae_search.subjects.language_model.checkpoint import read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vsae_search.export.facts import Facts

CONFIG_FILE, WEIGHTS_FILE, LOADER_FILE = "config.json", "ae.pt", "untied_gate_dictionary.py"
_LINEAR = {"encoder.weight": "FD", "encoder.bias": "F", "decoder.weight": "DF"}
_MATRICES = {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D"}
_LAYOUTS: dict[str, dict[str, str]] = {
    "AutoEncoder": {"bias": "D", **_LINEAR},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": "D"},
    "GatedAutoEncoder": {
        **{"decoder_bias": "D", "encoder.weight": "FD", "decoder.weight": "DF"},
        **{"r_mag": "F", "gate_bias": "F", "mag_bias": "F"},
    },
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "D"},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "D", "threshold": ""},
    "MatryoshkaBatchTopKSAE": {**_MATRICES, "threshold": ""},
    "JumpReluAutoEncoder": {**_MATRICES, "threshold": "F"},
    "UntiedGateAutoEncoder": {**_MATRICES, "W_gate": "DF", "b_gate": "F"},
}
"""Tensors of every class, with their axes; whole numbers (k, group_sizes) apart."""
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
"""The trainer whose autoencoders have a class; tools tell the class by it."""
_SUBMODULE = re.compile(r"(?P<site>resid_pre|resid_post|mlp_out|attn_out)_layer_(?P<layer>\d+)")
_UNSET = -1.0
"""Threshold of a TopK that has none."""


class DictionaryLearning:
    """Reads and writes the format."""

    name = "dictionary_learning"

    def write(self, sae: PlainSae, facts: Facts) -> Written:
        """``ae.pt`` and ``config.json``, float32."""
        class_name = _class_of(sae)
        sae = sae.with_input_bias(class_name not in ("AutoEncoderNew", "JumpReluAutoEncoder"))
        buffer = io.BytesIO()
        torch.save(_state(class_name, sae), buffer)
        files = {
            CONFIG_FILE: json.dumps(_config(class_name, sae, facts), indent=2, allow_nan=False).encode() + b"\n",
            WEIGHTS_FILE: buffer.getvalue(),
        }
        if class_name not in _TRAINERS:
            files[LOADER_FILE] = resources.files("vsae_search.export.loaders").joinpath(LOADER_FILE).read_bytes()
        return Written(files, class_name, needs_loader=LOADER_FILE in files)

    def read(self, path: Path) -> Read:
        """Read a folder; the weights through torch's restricted reader.

        Raises:
            UserInputError: There is none, its class cannot be read, or ``ae.pt`` holds more than tensors.
            CorruptFile: A file is damaged.
        """
        config = read_json(require_file(path, CONFIG_FILE, "a folder of dictionary_learning"))
        trainer = config.get("trainer")
        if not isinstance(trainer, dict):
            raise CorruptFile(f"{path}: config.json describes no trainer", "save it again")
        class_name = trainer.get("dict_class")
        if class_name not in _LAYOUTS:
            raise UserInputError(
                f"{path}: the class {class_name!r} cannot be read", f"readable: {', '.join(sorted(_LAYOUTS))}"
            )
        tensors = read_tensors(require_file(path, WEIGHTS_FILE, "a folder of dictionary_learning"))
        sizes = {"D": whole(trainer, "activation_dim", path), "F": whole(trainer, "dict_size", path)}
        layout = _LAYOUTS[class_name]
        require_shapes(tensors, {name: tuple(sizes[axis] for axis in axes) for name, axes in layout.items()}, path)
        values = {name: tensors[name].to(torch.float64) for name in layout}
        return Read(
            _plain(class_name, values, tensors, trainer, path),
            class_name,
            model=text(trainer, "lm_name"),
            hook=_hook(trainer),
        )


def _class_of(sae: PlainSae) -> str:
    """The class that computes this kind of code."""
    if sae.kind == "jumprelu" and sae.mean_k is not None:
        return "MatryoshkaBatchTopKSAE" if sae.widths else "BatchTopKSAE"
    if sae.kind == "relu":
        return "AutoEncoder" if sae.subtracts_b_dec else "AutoEncoderNew"
    return {
        "topk": "AutoEncoderTopK",
        "jumprelu": "JumpReluAutoEncoder",
        "gated": "GatedAutoEncoder",
        "two_encoders": "UntiedGateAutoEncoder",
    }[sae.kind]


def _state(class_name: str, sae: PlainSae) -> dict[str, Tensor]:
    """The state dict of a class; linear layers hold their weights transposed."""
    bias = {"GatedAutoEncoder": "gate_bias"}.get(class_name, "encoder.bias")
    matrices = "W_enc" in _LAYOUTS[class_name]
    state = {
        "W_enc" if matrices else "encoder.weight": sae.W_enc_DF if matrices else sae.W_enc_DF.T,
        "b_enc" if matrices else bias: sae.b_enc_F,
        "W_dec" if matrices else "decoder.weight": sae.W_dec_FD if matrices else sae.W_dec_FD.T,
    }
    output = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    state[output.get(class_name, "b_dec")] = sae.b_dec_D
    more = {"r_mag": sae.r_mag_F, "mag_bias": sae.b_mag_F, "W_gate": sae.W_gate_DF, "b_gate": sae.b_gate_F}
    state |= {name: tensor for name, tensor in more.items() if tensor is not None}
    if sae.threshold_F is not None:
        state["threshold"] = sae.threshold_F if sae.mean_k is None else sae.threshold_F.mean()
    elif sae.k is not None:
        state["threshold"] = torch.tensor(_UNSET)
    whole_numbers: dict[str, Tensor] = {}
    if (k := sae.k or sae.mean_k) is not None:
        whole_numbers["k"] = torch.tensor(k, dtype=torch.int32)
    if sae.widths:
        whole_numbers["group_sizes"] = torch.tensor([end - start for start, end in pairwise((0, *sae.widths))])
    # a tensor that is a part of a larger one, or an expanded one, would be saved with all of its memory
    return {
        name: tensor.detach().float().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    } | whole_numbers


def _config(class_name: str, sae: PlainSae, facts: Facts) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS.get(class_name, class_name),
        "dict_class": class_name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "lr": facts.params.get("lr"),
        "steps": facts.training_tokens // facts.batch_size if facts.batch_size else None,
        "seed": facts.seed,
        "device": "cpu",
        "layer": facts.layer,
        "lm_name": facts.model,
        "wandb_name": facts.uid,
        "submodule_name": facts.hook,
        "norm_factor": 1.0,
    }
    if (k := sae.k or sae.mean_k) is not None:
        trainer["k"] = k
    buffer = {
        "d_submodule": sae.d_in,
        "io": "out",
        "ctx_len": facts.context_length,
        "out_batch_size": facts.batch_size,
        "device": "cpu",
    }
    return {"trainer": trainer, "buffer": buffer, "vsae_search": facts.provenance()}


def _plain(
    class_name: str, values: dict[str, Tensor], tensors: dict[str, Tensor], trainer: dict[str, Any], path: Path
) -> PlainSae:
    linear = "encoder.weight" in values
    d_sae = trainer["dict_size"]
    bias = next(values[name] for name in ("b_enc", "encoder.bias", "gate_bias") if name in values)
    kind = {
        **{"AutoEncoder": "relu", "AutoEncoderNew": "relu", "AutoEncoderTopK": "topk"},
        **{"GatedAutoEncoder": "gated", "UntiedGateAutoEncoder": "two_encoders"},
    }.get(class_name, "jumprelu")
    k = None
    if class_name in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        stored = tensors.get("k")
        k = whole({"k": trainer.get("k") if stored is None else int(stored)}, "k", path, at_most=d_sae)
    return PlainSae(
        kind=kind,  # type: ignore[arg-type]  # a value of the table
        W_enc_DF=values["encoder.weight"].T if linear else values["W_enc"],
        b_enc_F=bias,
        W_dec_FD=values["decoder.weight"].T if linear else values["W_dec"],
        b_dec_D=next(values[name] for name in ("b_dec", "bias", "decoder.bias", "decoder_bias") if name in values),
        subtracts_b_dec=class_name not in ("AutoEncoderNew", "JumpReluAutoEncoder"),
        k=k if kind == "topk" else None,
        threshold_F=values["threshold"].expand(d_sae) if "threshold" in values else None,
        r_mag_F=values.get("r_mag"),
        b_mag_F=values.get("mag_bias"),
        W_gate_DF=values.get("W_gate"),
        b_gate_F=values.get("b_gate"),
        mean_k=k if kind == "jumprelu" else None,
        widths=_widths(tensors, d_sae, path) if class_name == "MatryoshkaBatchTopKSAE" else (),
    )


def _hook(trainer: dict[str, Any]) -> str | None:
    """The activation as TransformerLens names it; None where the trainer names it in a way of its own."""
    name = text(trainer, "submodule_name") or ""
    if found := _SUBMODULE.fullmatch(name):
        return f"blocks.{found['layer']}.hook_{found['site']}"
    return name if "hook_" in name or name.endswith((".hidden", ".activation")) else None


def _widths(tensors: dict[str, Tensor], d_sae: int, path: Path) -> tuple[int, ...]:
    sizes = tensors.get("group_sizes")
    widths = () if sizes is None else tuple(accumulate(int(size) for size in sizes.flatten()))
    if not widths or widths[-1] != d_sae:
        raise CorruptFile(f"{path}: group_sizes do not add up to {d_sae}", "save it again")
    return widths


FORMAT = DictionaryLearning()
