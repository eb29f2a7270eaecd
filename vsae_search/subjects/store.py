"""Arrays that are worth keeping: a safetensors file and a JSON sidecar under a content address.

The sidecar is written last and names the tensor file by its checksum, so that a half-written entry is never seen and
two processes that write at the same time leave a consistent one. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from vsae_search.atomic import write_bytes
from vsae_search.errors import CorruptFile
from vsae_search.subjects.seeds import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


def load_or_make(
    cache: Path, kind: str, identity: Mapping[str, Any], make: Callable[[], tuple[Arrays, Mapping[str, Any]]]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return stored arrays and facts, computing and storing them when they are not there yet.

    Args:
        cache: Directory of the entries; created when missing.
        kind: First part of the file names.
        identity: JSON values that determine the result; their digest is the content address.
        make: Computes arrays and JSON facts.

    Returns:
        The arrays by name, and the facts.

    Raises:
        CorruptFile: The entry is there but does not match its checksum. It is not recomputed silently, because a
            damaged disk or a hand-edited file is something to know about.
    """
    address = digest([kind, identity])
    sidecar = cache / f"{kind}-{address[:32]}.json"
    if not sidecar.exists():
        arrays, facts = make()
        _write(cache, sidecar, address, arrays, facts)
    return _read(sidecar, address)


def _write(cache: Path, sidecar: Path, address: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Store an entry: tensors first, then the sidecar that makes them visible."""
    cache.mkdir(parents=True, exist_ok=True)
    payload = save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    checksum = hashlib.sha256(payload).hexdigest()
    tensors = cache / f"{sidecar.stem}-{checksum[:16]}.safetensors"
    write_atomically(tensors, payload)
    record = {"address": address, "file": tensors.name, "sha256": checksum, "bytes": len(payload), "facts": facts}
    write_atomically(sidecar, (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def _read(sidecar: Path, address: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Load an entry, verifying size and checksum."""
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        stored, name, checksum, facts = (record[key] for key in ("address", "file", "sha256", "facts"))
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(sidecar, sidecar, f"it is not a complete JSON record ({error})") from error
    if stored != address:
        raise _corrupt(sidecar, sidecar, "it describes something else")
    tensors = sidecar.parent / PurePath(str(name)).name  # a stored name must not lead out of the directory
    if not tensors.is_file():
        raise _corrupt(tensors, sidecar, "it is missing")
    payload = tensors.read_bytes()
    if hashlib.sha256(payload).hexdigest() != checksum:
        raise _corrupt(tensors, sidecar, f"its {len(payload)} bytes do not match the recorded sha256")
    return load_tensors(payload), facts


def _corrupt(path: Path, sidecar: Path, why: str) -> CorruptFile:
    """Return the error for a damaged entry."""
    return CorruptFile(f"{path} is damaged: {why}", f"Delete {sidecar} and run again: the entry is then rebuilt.")


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that it is seen either complete or not at all, and survives a power cut."""
    write_bytes(path, payload, mode=None)
