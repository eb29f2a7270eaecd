"""SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``, in the layout of its version 6.

SAEBench loads the same folder through SAELens. What no class of SAELens computes is written with a file
``untied_gate_saelens.py`` beside it, which registers one.

Shapes: D d_in, F d_sae.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from vsae_search.errors import UserInputError
from vsae_search.export.formats import Read, Written
from vsae_search.export.formats._checks import boolean, require_file, require_shapes, text, whole
from vsae_search.export.plain import PlainSae
from vsae_search.saes.tensor_file import read_json
from vsae_search.subjects.language_model.checkpoint import read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vsae_search.export.facts import Facts

CONFIG_FILE, WEIGHTS_FILE, LOADER_FILE = "cfg.json", "sae_weights.safetensors", "untied_gate_saelens.py"
LAYOUT_VERSION = "6.0.0"
"""Version of SAELens that brought this layout; without one, its loader takes the file for an older layout."""
_KINDS = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated", "two_encoders": "untied_gate"}
_STANDARD = ("W_enc", "b_enc", "W_dec", "b_dec")
_TENSORS = {
    "standard": _STANDARD,
    "topk": _STANDARD,
    "jumprelu": (*_STANDARD, "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
    "untied_gate": (*_STANDARD, "W_gate", "b_gate"),
}


class SaeLens:
    """Reads and writes the format."""

    name = "saelens"

    def write(self, sae: PlainSae, facts: Facts) -> Written:
        """``cfg.json`` and ``sae_weights.safetensors``, float32."""
        architecture = _KINDS[sae.kind]
        config: dict[str, Any] = {
            "architecture": architecture,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": sae.subtracts_b_dec,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": _metadata(facts),
        }
        if sae.kind == "topk":
            config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
        tensors = {name: tensor.float().contiguous() for name, tensor in _tensors(sae).items()}
        files = {
            CONFIG_FILE: json.dumps(config, indent=2, allow_nan=False).encode() + b"\n",
            WEIGHTS_FILE: safetensors.torch.save(tensors),
        }
        if sae.kind == "two_encoders":
            files[LOADER_FILE] = resources.files("vsae_search.export.loaders").joinpath(LOADER_FILE).read_bytes()
        return Written(files, architecture, needs_loader=LOADER_FILE in files)

    def read(self, path: Path) -> Read:
        """Read a folder of SAELens 6, or of an earlier version whose file says the same things in other places.

        Raises:
            UserInputError: There is none; or it normalises its inputs, reshapes them or has an architecture that
                cannot be evaluated here.
            CorruptFile: A file is damaged.
        """
        config = _modern(read_json(require_file(path, CONFIG_FILE, "a folder of SAELens")))
        architecture = _readable(config, path)
        tensors = read_tensors(require_file(path, WEIGHTS_FILE, "a folder of SAELens"))
        d_in, d_sae = whole(config, "d_in", path), whole(config, "d_sae", path)
        require_shapes(tensors, {name: _shape(name, d_in, d_sae) for name in _TENSORS[architecture]}, path)
        metadata = config["metadata"]
        return Read(
            _plain(architecture, config, tensors, path),
            architecture,
            model=text(metadata, "model_name"),
            hook=text(metadata, "hook_name"),
            dataset=text(metadata, "dataset_path"),
        )


def _metadata(facts: Facts) -> dict[str, Any]:
    return {
        "sae_lens_version": LAYOUT_VERSION,
        "sae_lens_training_version": None,
        "model_name": facts.model,
        "hook_name": facts.hook,
        "hook_head_index": None,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": facts.loading,
        "dataset_path": facts.dataset,
        "context_size": facts.context_length,
        "prepend_bos": True,
        "seqpos_slice": [None],
        "exclude_special_tokens": True,
        "training_tokens": facts.training_tokens,
        "vsae_search": facts.provenance(),
    }


def _tensors(sae: PlainSae) -> dict[str, Tensor]:
    tensors = {"W_enc": sae.W_enc_DF, "W_dec": sae.W_dec_FD, "b_dec": sae.b_dec_D}
    tensors["b_gate" if sae.kind == "gated" else "b_enc"] = sae.b_enc_F
    more = {
        "threshold": sae.threshold_F,
        "r_mag": sae.r_mag_F,
        "b_mag": sae.b_mag_F,
        "W_gate": sae.W_gate_DF,
    }
    tensors |= {name: tensor for name, tensor in more.items() if tensor is not None}
    if sae.kind == "two_encoders" and sae.b_gate_F is not None:
        tensors["b_gate"] = sae.b_gate_F
    return tensors


def _shape(name: str, d_in: int, d_sae: int) -> tuple[int, ...]:
    if name in ("W_enc", "W_gate"):
        return (d_in, d_sae)
    return {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}.get(name, (d_sae,))


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as version 6 has it; earlier ones kept everything at the top and left out defaults."""
    if isinstance(config.get("metadata"), dict) and config["metadata"].get("sae_lens_version"):
        return config
    config = {**config, "metadata": dict(config)}
    config["metadata"].setdefault("hook_name", config.get("hook_point"))
    config.setdefault("architecture", "standard")
    if config.get("activation_fn", config.get("activation_fn_str")) == "topk":
        config["architecture"] = "topk"
        config.setdefault("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    config.setdefault("apply_b_dec_to_input", True)
    normalised = {True: "expected_average_only_in", False: "none", None: "none"}
    value = config.get("normalize_activations")
    config["normalize_activations"] = normalised[value] if value is None or isinstance(value, bool) else value
    return config


def _readable(config: dict[str, Any], path: Path) -> str:
    """The architecture, once nothing stands in the way of evaluating it.

    Raises:
        UserInputError: Something does; says what.
    """
    architecture = config.get("architecture")
    if architecture not in _TENSORS:
        raise UserInputError(
            f"{path}: architecture {architecture!r} cannot be read", f"readable: {', '.join(sorted(_TENSORS))}"
        )
    normalised = config.get("normalize_activations", "none")
    if normalised != "none":
        raise UserInputError(
            f"{path}: it normalises its inputs ({normalised}) by numbers that the file does not hold",
            "fold the normalisation into the weights with SAELens and save it again",
        )
    if config.get("reshape_activations", "none") != "none" or config.get("hook_head_index") is not None:
        raise UserInputError(f"{path}: it reads single attention heads", "only whole activations can be read")
    if config.get("finetuning_scaling_factor"):
        raise UserInputError(f"{path}: it has a fine-tuned scaling factor", "fold it into the weights and save again")
    return str(architecture)


def _plain(architecture: str, config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> PlainSae:
    kind = next(ours for ours, theirs in _KINDS.items() if theirs == architecture)
    tensors = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    norm_F = torch.linalg.vector_norm(tensors["W_dec"], dim=1)
    rescaled = kind == "topk" and bool(config.get("rescale_acts_by_decoder_norm", False))
    W_enc_DF, b_enc_F, W_dec_FD = tensors["W_enc"], tensors.get("b_enc", tensors.get("b_gate")), tensors["W_dec"]
    assert b_enc_F is not None, "every layout has one of the two"
    if rescaled:  # it selects on pre-activations times decoder norm and divides by it again
        divisor_F = torch.where(norm_F > 0, norm_F, 1.0)
        W_enc_DF, b_enc_F, W_dec_FD = W_enc_DF * norm_F, b_enc_F * norm_F, W_dec_FD / divisor_F[:, None]
    return PlainSae(
        kind=kind,  # type: ignore[arg-type]  # a key of the table
        W_enc_DF=W_enc_DF,
        b_enc_F=b_enc_F,
        W_dec_FD=W_dec_FD,
        b_dec_D=tensors["b_dec"],
        subtracts_b_dec=boolean(config, "apply_b_dec_to_input", path, default=True),
        k=whole(config, "k", path, at_most=config["d_sae"]) if kind == "topk" else None,
        threshold_F=tensors.get("threshold"),
        r_mag_F=tensors.get("r_mag"),
        b_mag_F=tensors.get("b_mag"),
        W_gate_DF=tensors.get("W_gate"),
        b_gate_F=tensors.get("b_gate") if kind == "two_encoders" else None,
    )


FORMAT = SaeLens()
