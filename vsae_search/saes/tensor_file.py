"""Tensors and JSON on disk: written atomically, checked completely before anything is allocated or believed.

safetensors and JSON only. Reading either cannot run code, and a header is compared with what is expected (names,
types, shapes, file size) before the first tensor is created, so that a forged file cannot ask for memory.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from vsae_search.atomic import write_bytes
from vsae_search.errors import CorruptFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_MAX_JSON_BYTES = 16 << 20
_MAX_HEADER_BYTES = 16 << 20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_HINT = "delete it and train again, or restore it from a copy"

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of every tensor in a file, by name."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Types and shapes of tensors (which may be on the meta device)."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors to a safetensors file, atomically.

    Args:
        path: Target; its directory exists.
        tensors: Tensors by name, on any device.

    Returns:
        SHA-256 of the file, in hexadecimal.
    """
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, *, expected: Layout, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file that must be exactly what was recorded.

    Args:
        path: File to read.
        expected: Types and shapes that the file must have, no more and no fewer.
        sha256: Recorded checksum.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CorruptFile: Missing, truncated, of other types or shapes than expected, or altered.
    """
    try:
        found, offset = _read_layout(path)
        if found != expected:
            raise CorruptFile(f"{path}: tensors are not the recorded ones ({_difference(found, expected)})", _HINT)
        size = offset + sum(dtype.itemsize * _count(shape) for dtype, shape in expected.values())
        if path.stat().st_size != size:
            raise CorruptFile(f"{path}: {path.stat().st_size} bytes instead of {size}", _HINT)
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be read ({error.strerror})", _HINT) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptFile(f"{path}: checksum differs from the recorded one", _HINT)
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CorruptFile(f"{path}: {error}", _HINT) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON (no NaN) to ``path``, atomically."""
    data = json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
    write_bytes(path, data)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MB.

    Raises:
        CorruptFile: Missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CorruptFile(f"{path}: larger than {_MAX_JSON_BYTES} bytes", _HINT)
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be read ({error.strerror})", _HINT) from error
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: not JSON ({error})", _HINT) from error
    if not isinstance(content, dict):
        raise CorruptFile(f"{path}: not a JSON object", _HINT)
    return content


def _read_layout(path: Path) -> tuple[Layout, int]:
    """Types and shapes in a safetensors header, and where its data begins."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise CorruptFile(f"{path}: not a safetensors file", _HINT)
        header = file.read(length)
    try:
        entries = json.loads(header)
        layout = {
            name: (_DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFile(f"{path}: unreadable safetensors header", _HINT) from error
    return layout, 8 + length


def _difference(found: Layout, expected: Layout) -> str:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            return f"{name}: {found.get(name, 'missing')} instead of {expected.get(name, 'nothing')}"
    return "same"


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
