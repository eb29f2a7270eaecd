"""Shard files: one safetensors file per shard, addressed by what it must contain and checked on every read.

A file's name is the hash of everything that determines its rows, so a file that exists is the right one. Its header
carries the digest of its arrays, so a file that exists but was damaged is found out. Files appear whole or not at
all: they are written under a temporary name, flushed to disk and renamed.

Shapes: N rows, D d_in, M features.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vsae_search.atomic import write_bytes
from vsae_search.errors import CorruptFile, EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vsae_search.activations.codec import Dtype
    from vsae_search.subjects import Split

FORMAT_VERSION = 1
"""To be raised with the layout of a file, the shuffling or the digest: old files are then not found, not misread."""

_STALE_S = 24 * 3600.0
_HEADER_KEY = "shard"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ShardRequest:
    """Everything that determines the content of one shard file.

    Attributes:
        subject: Fingerprint of the subject.
        split: Which of the disjoint sets of rows.
        index: Position of the shard within its split.
        num_rows: Rows in the shard.
        dtype: Stored row type.
        shard_rows: Rows in each of the shards before it.
    """

    subject: str
    split: Split
    index: int
    num_rows: int
    dtype: Dtype
    shard_rows: int

    @property
    def key(self) -> str:
        """Address of the content: sha256 (hex) of the fields and the format version."""
        return hash_json({"format": FORMAT_VERSION, **asdict(self)})

    @property
    def file_name(self) -> str:
        """Name of the file inside the bank directory; the words in front of the hash are for people."""
        return f"{self.split}-{self.index:06d}-{self.key[:16]}.safetensors"


def hash_json(value: Any) -> str:
    """Return the sha256 (hex) of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 (hex) of the names, types, shapes and bytes of some arrays, in order of name."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.data)
    return state.hexdigest()


def write_shard(path: Path, request: ShardRequest, arrays: Arrays) -> str:
    """Write a shard file atomically and return the digest of its arrays.

    Raises:
        EnvironmentNotReady: The disk or the quota is full.
    """
    sha256 = digest(arrays)
    header = json.dumps({"format": FORMAT_VERSION, "key": request.key, "dtype": request.dtype, "sha256": sha256})
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(path, save(contiguous, metadata={_HEADER_KEY: header}))
    return sha256


def read_shard(path: Path, request: ShardRequest, sha256: str | None = None) -> tuple[Arrays, str]:
    """Read a shard file and check it.

    Args:
        path: The file.
        request: What it must contain.
        sha256: Digest that its arrays must have; None accepts the one in its own header.

    Returns:
        The arrays by name, and their digest.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: The file is damaged or holds something else.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise corrupt(path, f"it cannot be read ({error})") from error
    if header.get("key") != request.key:
        raise corrupt(path, "it belongs to other rows")
    found = digest(arrays)
    if found != header.get("sha256"):
        raise corrupt(path, "its checksum does not match its content")
    if sha256 is not None and found != sha256:
        raise corrupt(path, "it is not the file that the manifest describes")
    return arrays, found


def corrupt(path: Path, reason: str) -> CorruptFile:
    """Return the error for a stored file that must not be used."""
    return CorruptFile(
        f"the activation file {path} is corrupt: {reason}",
        "delete it and start again: its rows are harvested anew. It is never overwritten on its own, because a file"
        " that went bad is a sign that the disk should be looked at",
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either absent, as it was, or complete, whatever happens meanwhile.

    Raises:
        EnvironmentNotReady: The disk or the quota is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_bytes(path, content, mode=0o644)  # other accounts of a shared cluster read it too
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentNotReady(
                f"no space left while writing {path} ({len(content)} bytes)",
                "free some space or choose another directory, then start again: files already written are reused",
            ) from error
        raise


def remove_stale_temporaries(directory: Path) -> None:
    """Remove what writers that were killed left behind more than a day ago."""
    for leftover in directory.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _STALE_S:
                leftover.unlink()
