"""Files of packed tokens: a chain of chunks, each written once and never changed.

A chunk holds the sequences of all four splits that came from one stretch of documents, and what the next chunk needs
to go on: the number of the next document and the tokens left over. Its file is named after everything that determines
it and carries the digest of its arrays, which is checked when it is opened; after that its sequences are read from the
mapped file. Because a chunk never changes, text grown in steps is the same as text made at once.

Shapes: S sequences, T tokens in a sequence (the context length).
"""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vsae_search.errors import CorruptFile, EnvironmentNotReady
from vsae_search.subjects.seeds import digest
from vsae_search.subjects.store import write_atomically
from vsae_search.subjects.text.splits import SHARES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.subjects.base import Split

FORMAT_VERSION = 1
"""To be raised with the packing, the order or the layout of a file: old files are then not found, not misread."""

_HEADER = "chunk"
_LEFT_OVER = "left_over_"


@dataclass(frozen=True)
class ChunkFacts:
    """What is known about a chunk besides its tokens.

    Attributes:
        next_document: Number of the first document that is not in this chunk or an earlier one.
        exhausted: Whether the source ended in this chunk.
        num_documents: Documents of each split in this chunk.
        short_rows: Packed rows that were shorter than a sequence, and therefore left out.
    """

    next_document: int
    exhausted: bool
    num_documents: dict[Split, int]
    short_rows: int


class Chunk:
    """An open, verified chunk."""

    def __init__(self, file: Any, facts: ChunkFacts) -> None:
        self.facts = facts
        self._file = file
        self.num_sequences: dict[Split, int] = {split: file.get_slice(split).get_shape()[0] for split in SHARES}

    def sequences(self, split: Split, start: int, stop: int) -> NDArray[np.int64]:
        """Return sequences ``start`` to ``stop`` of a split, [S, T]."""
        return np.asarray(self._file.get_slice(split)[start:stop], dtype=np.int64)

    def left_over(self) -> dict[Split, NDArray[np.int64]]:
        """Return the tokens of each split that did not fill a sequence."""
        return {split: np.asarray(self._file.get_tensor(_LEFT_OVER + split), dtype=np.int64) for split in SHARES}


def chunk_path(cache: Path, fingerprint: str, index: int) -> Path:
    """Return where a chunk of a text belongs."""
    return cache / f"tokens-{_address(fingerprint, index)[:24]}-{index:05d}.safetensors"


def write_chunk(
    path: Path,
    fingerprint: str,
    index: int,
    sequences: Mapping[Split, NDArray[np.int64]],
    left_over: Mapping[Split, NDArray[np.int64]],
    facts: ChunkFacts,
) -> None:
    """Write a chunk atomically, with the narrowest type that holds its tokens.

    Raises:
        EnvironmentNotReady: The disk or the quota is full.
    """
    wide: dict[str, NDArray[np.int64]] = {str(split): array for split, array in sequences.items()}
    wide |= {_LEFT_OVER + split: ids for split, ids in left_over.items()}
    largest = max((int(array.max()) for array in wide.values() if array.size), default=0)
    dtype = np.uint16 if largest < 2**16 else np.int32
    arrays = {name: np.ascontiguousarray(array, dtype=dtype) for name, array in wide.items()}
    header = {
        "address": _address(fingerprint, index),
        "sha256": _digest(arrays),
        "next_document": facts.next_document,
        "exhausted": facts.exhausted,
        "num_documents": facts.num_documents,
        "short_rows": facts.short_rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(path, save(arrays, metadata={_HEADER: json.dumps(header, sort_keys=True)}))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = sum(array.nbytes for array in arrays.values())
        raise EnvironmentNotReady(
            f"no space left while writing {path} ({size} bytes)", "free some space and start again"
        ) from error


def open_chunk(path: Path, fingerprint: str, index: int) -> Chunk:
    """Open a chunk and check it.

    Raises:
        CorruptFile: The file is damaged or holds something else.
    """
    try:
        file: Any = safe_open(path, framework="numpy")
        header = json.loads((file.metadata() or {})[_HEADER])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        address, sha256 = header.pop("address"), header.pop("sha256")
        facts = ChunkFacts(**header)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _corrupt(path, f"it cannot be read ({error})") from error
    if address != _address(fingerprint, index):
        raise _corrupt(path, "it belongs to another text")
    if _digest(arrays) != sha256:
        raise _corrupt(path, "its checksum does not match its content")
    return Chunk(file, facts)


def _address(fingerprint: str, index: int) -> str:
    return digest(["chunk", FORMAT_VERSION, fingerprint, index])


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 (hex) of the names, types, shapes and bytes of some arrays."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _corrupt(path: Path, why: str) -> CorruptFile:
    return CorruptFile(
        f"the token file {path} is damaged: {why}",
        "Delete it and run again: it is then made anew. It is never overwritten on its own, because a file that went"
        " bad is a sign that the disk should be looked at.",
    )
