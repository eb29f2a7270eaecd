"""Saving and loading a trained autoencoder: safetensors for the weights, JSON for the rest; nothing that runs code.

``sae.safetensors`` holds the state (parameters and buffers); ``sae.json`` holds the architecture, its configuration,
the layout of every tensor and the checksum of the weights. The JSON is written last: a pair that was interrupted
half-way does not match, and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from vsae_search.errors import CorruptFile
from vsae_search.saes.registry import get
from vsae_search.saes.tensor_file import Layout, layout_of, read_json, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.saes.base import SparseAutoencoder

WEIGHTS_FILE = "sae.safetensors"
RECORD_FILE = "sae.json"
_FORMAT = 1


class _Record(BaseModel):
    """Contents of ``sae.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    architecture: str
    config: dict[str, Any]
    seed: int
    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    sha256: str


def save(sae: SparseAutoencoder, directory: Path) -> None:
    """Write ``sae.safetensors`` and ``sae.json``, each atomically, overwriting an earlier pair.

    Args:
        sae: Any registered architecture.
        directory: Created when missing.
    """
    assert sae.name, "only a registered architecture can be found again when it is loaded"
    directory.mkdir(parents=True, exist_ok=True)
    state = sae.state_dict()
    sha256 = write_tensors(directory / WEIGHTS_FILE, state)
    record = _Record(
        format=_FORMAT,
        architecture=sae.name,
        config=sae.config.model_dump(mode="json"),
        seed=sae.seed,
        dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()},
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        sha256=sha256,
    )
    write_json(directory / RECORD_FILE, record.model_dump(mode="json"))


def load(directory: Path) -> SparseAutoencoder:
    """Read what :func:`save` wrote, bit for bit.

    Args:
        directory: Where the pair of files is.

    Returns:
        The autoencoder on the CPU, in the type that it was saved in.

    Raises:
        CorruptFile: A file is missing, was altered, or does not fit its record or its architecture.
        UserInputError: The architecture is not known to this installation.
    """
    path = directory / RECORD_FILE
    try:
        record = _Record.model_validate(read_json(path))
    except ValidationError as error:
        raise CorruptFile(f"{path}: {error.error_count()} fields are missing or wrong", "save it again") from error
    if record.format != _FORMAT:
        raise CorruptFile(f"{path}: format {record.format} is not {_FORMAT}", "update the program")
    cls = get(record.architecture)
    try:
        config = cls.Config.model_validate(record.config)
    except ValidationError as error:
        raise CorruptFile(f"{path}: the configuration is not one of {record.architecture}", "save it again") from error
    expected = _expected_layout(cls, config, record, path)
    tensors = read_tensors(directory / WEIGHTS_FILE, expected=expected, sha256=record.sha256)
    sae = cls(config, seed=record.seed)
    sae.load_state_dict(tensors, assign=True)
    sae.initialised = True
    return sae


def _expected_layout(cls: type[SparseAutoencoder], config: Any, record: _Record, path: Path) -> Layout:
    """Layout by the record, once its shapes are those of the architecture (built without memory, on ``meta``)."""
    with torch.device("meta"):
        shapes = {name: shape for name, (_, shape) in layout_of(cls(config).state_dict()).items()}
    if shapes != record.shapes:
        raise CorruptFile(f"{path}: recorded shapes are not those of {record.architecture}", "save it again")
    layout: Layout = {}
    for name, shape in shapes.items():
        dtype = getattr(torch, record.dtypes.get(name, ""), None)
        if not isinstance(dtype, torch.dtype):
            raise CorruptFile(f"{path}: no type of tensor is recorded for {name}", "save it again")
        layout[name] = (dtype, shape)
    return layout
