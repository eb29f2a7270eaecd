"""The files of the built-in model: weights, tokenizer, and the card that describes them and names their checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from vsae_search.errors import CorruptFile
from vsae_search.subjects.store import write_atomically
from vsae_search.subjects.tiny_gelu_1l.model import OneLayerConfig, OneLayerModel
from vsae_search.subjects.tiny_gelu_1l.tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).resolve().parent
WEIGHTS, TOKENIZER, CARD = "weights.safetensors", "tokenizer.json", "card.json"
_HINT = "Install the package again, or train the model again: python -m vsae_search.subjects.tiny_gelu_1l.train"


def load_model(folder: Path = FOLDER) -> OneLayerModel:
    """Load the built-in model, in float32, for inference.

    Args:
        folder: Where its files are.

    Raises:
        CorruptFile: A file is missing, or is not the one that the card describes.
    """
    card = load_card(folder)
    payload = _verified(folder / WEIGHTS, card)
    try:
        model = OneLayerModel(OneLayerConfig(**card["architecture"]))
        tensors = safetensors.torch.load(payload)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise CorruptFile(f"{folder / WEIGHTS} does not fit {CARD}: {error}", _HINT) from error
    return model.eval().requires_grad_(requires_grad=False)


def load_tokenizer(folder: Path = FOLDER) -> ByteTokenizer:
    """Load the tokenizer of the built-in model.

    Raises:
        CorruptFile: A file is missing, or is not the one that the card describes.
    """
    return ByteTokenizer(_verified(folder / TOKENIZER, load_card(folder)).decode())


def load_card(folder: Path = FOLDER) -> dict[str, Any]:
    """Load the card of the built-in model.

    Raises:
        CorruptFile: It is missing or not a JSON object with checksums.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(card["sha256"][name], str) for name in (WEIGHTS, TOKENIZER)):
            raise TypeError("a checksum is not a text")
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read ({error.strerror})", _HINT) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is not the card of a model ({type(error).__name__}: {error})", _HINT) from error
    return dict(card)


def save(model: OneLayerModel, tokenizer: ByteTokenizer, facts: Mapping[str, Any], folder: Path) -> None:
    """Write weights (float16), tokenizer and card; the card comes last, so that a half-written model is never loaded.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        facts: What else the card should say, as values that JSON can hold.
        folder: Where to; created when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    payloads = {WEIGHTS: safetensors.torch.save(tensors), TOKENIZER: tokenizer.rules.encode()}
    for name, payload in payloads.items():
        write_atomically(folder / name, payload)
    card = {
        "name": "tiny_gelu_1l",
        "architecture": dataclasses.asdict(model.config),
        "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
        **facts,
        "sha256": {name: hashlib.sha256(payload).hexdigest() for name, payload in payloads.items()},
    }
    write_atomically(folder / CARD, (json.dumps(card, indent=2, allow_nan=False) + "\n").encode())


def _verified(path: Path, card: Mapping[str, Any]) -> bytes:
    """Return the content of a file that must be the one that the card describes."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read ({error.strerror})", _HINT) from error
    if hashlib.sha256(payload).hexdigest() != card["sha256"][path.name]:
        raise CorruptFile(f"{path} is damaged: its {len(payload)} bytes do not match the sha256 in {CARD}", _HINT)
    return payload
