"""Models of the GELU-1L family as their authors published them: a TransformerLens configuration and a state dictionary.

TransformerLens itself asks the hub for the list of a repository's files, even when all of them are cached, so it cannot
load these models offline. The configuration and the weights are all that is needed.

Shapes: H heads, D residual stream, K head dimensions, V vocabulary.

Reference: Nanda, "Open source replication of Anthropic's dictionary learning paper", 2023, for which GELU-1L was used.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.subjects.language_model.checkpoint import read_tensors
from vsae_search.subjects.tiny_gelu_1l.model import OneLayerConfig, OneLayerModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_SIZES = ("n_layers", "d_model", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab")
_BUFFERS = (".mask", ".IGNORE")  # TransformerLens stored the causal mask beside the weights
_DEFAULT_TOKENIZER = "EleutherAI/gpt-neox-20b"


def is_legacy(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is that of a model in the old TransformerLens format: it names all sizes."""
    return all(isinstance(config.get(name), int) for name in _SIZES)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model's folder.

    Raises:
        UserInputError: There is none.
        CorruptFile: It is not JSON.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserInputError(
            f"{folder} has no config.json, so it does not hold a model", "Give the folder that has the model's files."
        ) from None
    except ValueError as error:
        raise CorruptFile(f"{path} is not JSON: {error}", "Fetch the model again.") from error
    if not isinstance(config, dict):
        raise CorruptFile(f"{path} does not hold a configuration", "Fetch the model again.")
    return config


def tokenizer_of(config: Mapping[str, Any]) -> str:
    """Return the name of the tokenizer, which is a repository of its own."""
    return str(config.get("tokenizer_name") or _DEFAULT_TOKENIZER)


def load_legacy(folder: Path) -> OneLayerModel:
    """Load a one-layer model, in float32 on the CPU.

    Raises:
        UserInputError: The model is not of this family, or its files are missing.
        CorruptFile: The weights are damaged or do not fit the configuration.
    """
    config = read_config(folder)
    _require_supported(config, folder)
    path = _weights(folder)
    model = OneLayerModel(
        OneLayerConfig(
            d_model=config["d_model"],
            n_heads=config["n_heads"],
            d_mlp=config["d_mlp"],
            n_ctx=config["n_ctx"],
            d_vocab=config["d_vocab"],
            eps=float(config.get("eps", 1e-5)),
        )
    )
    optional = {"unembed.b_U": 0.0}  # some of these models have no bias there
    if config.get("normalization", config.get("normalization_type")) == "LNPre":
        for place in ("blocks.0.ln1", "blocks.0.ln2", "ln_final"):
            optional |= {f"{place}.w": 1.0, f"{place}.b": 0.0}
    _fill(model, read_tensors(path), optional, path)
    return model


def _require_supported(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse everything that the one-layer model would compute differently."""
    wanted = {
        "n_layers": (config["n_layers"], (1,)),
        "act_fn": (config.get("act_fn"), ("gelu",)),
        "normalization": (config.get("normalization", config.get("normalization_type")), ("LN", "LNPre")),
        "attn_only": (bool(config.get("attn_only", False)), (False,)),
        "shortformer_pos": (bool(config.get("shortformer_pos", False)), (False,)),
        "final_rms": (bool(config.get("final_rms", False)), (False,)),
        "d_head * n_heads": (config["d_head"] * config["n_heads"], (config["d_model"],)),
    }
    wrong = [f"{name} = {value}" for name, (value, allowed) in wanted.items() if value not in allowed]
    if wrong:
        raise UserInputError(
            f"{folder} is a model in the old TransformerLens format with {', '.join(wrong)}",
            "Of this format only one-layer models with GELU and LayerNorm can be read; models in the format of the"
            " transformers library have no such limit.",
        )


def _weights(folder: Path) -> Path:
    """Return the file of the final weights; safetensors where there is a choice."""
    for pattern in ("*.safetensors", "*final.pth", "*.pth"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise UserInputError(f"{folder} has several files of weights: {names}", "Keep one of them.")
    raise UserInputError(
        f"{folder} has no weights (.safetensors or *final.pth)", "Give the folder that has the model's files."
    )


def _fill(model: OneLayerModel, found: dict[str, Tensor], optional: Mapping[str, float], path: Path) -> None:
    """Copy the weights into the model; every one of them must be there, and nothing else."""
    found = {name: value for name, value in found.items() if not name.endswith(_BUFFERS)}
    expected = model.state_dict()
    missing = sorted(expected.keys() - found.keys() - optional.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing or unknown:
        text = "; ".join(
            f"{what} {', '.join(names[:5])}" for what, names in (("lacks", missing), ("has", unknown)) if names
        )
        raise CorruptFile(f"{path} does not fit its config.json: it {text}", "Use a complete copy of the model.")
    with torch.no_grad():
        for name, target in expected.items():
            value = found.get(name)
            if value is None:
                target.fill_(optional[name])
            elif value.shape != target.shape or not bool(value.isfinite().all()):
                raise CorruptFile(
                    f"{path}: {name} has shape {list(value.shape)} instead of {list(target.shape)}, or is not finite",
                    "Use a complete copy of the model.",
                )
            else:
                target.copy_(value)
