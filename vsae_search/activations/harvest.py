"""Who writes shard files, and who serves them.

``ensure_shard`` writes: it harvests a subject's rows, shuffles them and leaves a file. Another kind of writer (actors
that hold a language model on a GPU) only has to leave the same file under the same name and return the same entry.
``load_or_harvest`` serves: it returns the arrays of a file that an entry describes, and falls back on the writer when
the file is gone. It is the task whose results the trials read, so Ray runs it again when an object is lost.

Both are plain functions; ``bank.py`` turns them into Ray tasks.

Shapes: N rows, D d_in, M features.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.activations.codec import encode_rows
from vsae_search.activations.files import Arrays, ShardRequest, digest, read_shard, write_shard
from vsae_search.activations.manifest import ShardEntry
from vsae_search.activations.statistics import RowSums, sum_rows
from vsae_search.errors import CorruptFile
from vsae_search.subjects import Rows, Subject

if TYPE_CHECKING:
    from pathlib import Path

ROWS = "x_ND"
"""Name of the activations inside a shard file; the other fields of ``Rows`` go by their own names."""


@dataclass(frozen=True)
class WrittenShard:
    """What a writer reports about a file: its entry for the manifest, and the sums of its rows."""

    entry: ShardEntry
    sums: RowSums


def ensure_shard(subject: Subject, request: ShardRequest, directory: Path) -> WrittenShard:
    """Make sure that a shard file is on disk, and report on it.

    A file that is already there is read and checked instead of being harvested, so a build that was interrupted goes on
    where it stopped.

    Raises:
        CorruptFile: The file is there, but damaged.
        UserInputError: The rows cannot be stored (not finite, too large for the row type).
        EnvironmentNotReady: The disk is full.
    """
    path = directory / request.file_name
    try:
        arrays, sha256 = read_shard(path, request)
    except FileNotFoundError:
        arrays = harvest_arrays(subject, request)
        sha256 = write_shard(path, request, arrays)
    entry = ShardEntry(
        file=request.file_name,
        split=request.split,
        index=request.index,
        dtype=request.dtype,
        shapes={name: array.shape for name, array in arrays.items()},
        sha256=sha256,
        num_bytes=sum(array.nbytes for array in arrays.values()),
    )
    return WrittenShard(entry, sum_rows(arrays[ROWS], request.dtype))


def load_or_harvest(subject: Subject, request: ShardRequest, entry: ShardEntry, directory: Path) -> tuple[Arrays, int]:
    """Return the arrays of a shard: from its file, or harvested again (and written again) when the file is gone.

    A damaged file is never overwritten, and rows that come out differently the second time are never served: half a
    sweep would then have seen other data than the other half.

    Returns:
        The arrays by name, and their size in bytes (small, so that the driver can wait for the task, and learn of its
        error, without pulling the arrays).

    Raises:
        CorruptFile: The file is damaged, or the rows harvested again differ from those of the manifest.
    """
    path = directory / request.file_name
    try:
        arrays, _ = read_shard(path, request, entry.sha256)
    except FileNotFoundError:
        arrays = harvest_arrays(subject, request)
        if digest(arrays) != entry.sha256:
            raise CorruptFile(
                f"{path} was lost, and harvesting it again gave different rows",
                f"delete {directory} to build the bank anew; its trials cannot be compared with earlier ones",
            ) from None
        write_shard(path, request, arrays)
    return arrays, entry.num_bytes


def harvest_arrays(subject: Subject, request: ShardRequest) -> Arrays:
    """Harvest the rows of one shard in the form in which they are stored; a pure function of its arguments.

    Training rows are shuffled with a permutation drawn from the shard's key, so that contiguous slices of a shard mix
    its documents; only the activations are kept. Rows of the evaluation and confirm splits stay in order, since losses
    are compared sequence by sequence, and keep every array of ``Rows``.

    Raises:
        UserInputError: The rows cannot be stored (not finite, too large for the row type).
    """
    rows = subject.harvest(request.index, request.num_rows, request.split, shard_rows=request.shard_rows)
    x_ND = rows.x_ND
    assert x_ND.shape == (request.num_rows, subject.d_in), f"harvest returned {x_ND.shape}"
    stored_ND = encode_rows(x_ND, request.dtype)
    if request.split == "train":  # after the rounding: half the bytes are moved, and the rows are the same
        stored_ND = stored_ND.take(np.random.default_rng(int(request.key, 16)).permutation(len(x_ND)), axis=0)
    arrays: Arrays = {ROWS: stored_ND}
    if request.split in ("evaluation", "confirm"):
        for field in fields(Rows):
            value = getattr(rows, field.name)
            if field.name != ROWS and value is not None:
                arrays[field.name] = np.asarray(value)
    return arrays
