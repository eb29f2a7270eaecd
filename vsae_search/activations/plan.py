"""How large a bank will be, and whether there is room for it, before any work starts.

The disk must hold its files, and the object stores its arrays, together with the folders to which Ray spills what does
not fit in them. Nothing here needs a running Ray, so that a dry run can print the plan.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsae_search.activations.codec import STORAGE
from vsae_search.activations.manifest import bank_key, bank_requests, count_shards
from vsae_search.activations.stores import NodeStore, existing
from vsae_search.errors import EnvironmentNotReady, UserInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.space import ActivationsSpec

_FLOAT32_BYTES = 4
_DISK_MARGIN = 1.05
"""File headers, the manifest and one temporary file being written."""
MAX_SHARDS = 1_000_000
"""More files than this in one folder, and more references in one handle, serve nobody."""


@dataclass(frozen=True)
class BankPlan:
    """The sizes of a bank against the room there is for it.

    Attributes:
        directory: Where the files will be; the directory of the bank itself once the subject is known.
        num_shards: Training shards.
        train_bytes: Bytes of the training rows.
        calibration_bytes: Bytes of the calibration rows.
        evaluation_bytes: Bytes of the evaluation rows.
        missing_bytes: Bytes that are not on disk yet and will be written.
        free_disk_bytes: Free space where they will be written.
        stores: The object stores that will hold the arrays, one for each node; empty when no cluster is known, or when
            the arrays are in them already.
    """

    directory: Path
    num_shards: int
    train_bytes: int
    calibration_bytes: int
    evaluation_bytes: int
    missing_bytes: int
    free_disk_bytes: int
    stores: tuple[NodeStore, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole bank, on disk and in the object store."""
        return self.train_bytes + self.calibration_bytes + self.evaluation_bytes

    @property
    def required_disk_bytes(self) -> int:
        """Free space that the missing files need."""
        return math.ceil(self.missing_bytes * _DISK_MARGIN)

    @property
    def object_store_bytes(self) -> int | None:
        """Capacity of the object stores together; None when no cluster is known."""
        return sum(store.capacity_bytes for store in self.stores) if self.stores else None

    @property
    def spilled_bytes(self) -> int:
        """Bytes that do not fit in the object stores and are read from spill files; 0 if unknown."""
        return sum(max(0, self._share_bytes - store.capacity_bytes) for store in self.stores)

    def check(self) -> None:
        """Refuse a bank that the disk or the spill folders cannot hold. One that exceeds memory alone is allowed.

        Raises:
            EnvironmentNotReady: Too little free space; the message has the numbers.
            UserInputError: More shards than can be listed.
        """
        if self.required_disk_bytes > self.free_disk_bytes:
            raise EnvironmentNotReady(
                f"the activation bank needs {format_bytes(self.required_disk_bytes)} on disk at {self.directory},"
                f" where {format_bytes(self.free_disk_bytes)} is free",
                "free some space, choose another sweep directory, lower activations.num_tokens, or set"
                " activations.dtype to bf16 to halve it",
            )
        if self.num_shards > MAX_SHARDS:
            raise UserInputError(
                f"the activation bank would have {self.num_shards} shards; {MAX_SHARDS} is the most",
                "raise activations.shard_tokens, or lower activations.num_tokens",
            )
        for store in self.stores:
            self._check_store(store)

    @property
    def _share_bytes(self) -> int:
        """Bytes on each node: Ray spreads the shards evenly."""
        return math.ceil(self.total_bytes / max(1, len(self.stores)))

    def _check_store(self, store: NodeStore) -> None:
        """Refuse a node whose spill folder cannot hold its share of the bank.

        All of the share is counted: once Ray has begun to spill, reading in another order pushes out the rest too.

        Raises:
            EnvironmentNotReady: Too little free space; the message has the numbers.
        """
        if store.holds(self._share_bytes):
            return
        needed = math.ceil(self._share_bytes * _DISK_MARGIN)
        files = self.required_disk_bytes if store.holds_files else 0
        if needed + files > store.usable_bytes:
            beside = f" and {format_bytes(files)} for the bank's files" if files else ""
            raise EnvironmentNotReady(
                f"the activation bank is {format_bytes(self.total_bytes)}, and the object store of node {store.node}"
                f" holds {format_bytes(store.capacity_bytes)}: Ray needs {format_bytes(needed)} for spilling{beside} on"
                f" the disk of {store.spill_directory}, where {format_bytes(store.usable_bytes)} can be used",
                "raise resources.object_store_gb (or ray start --object-store-memory), free some space, point"
                " --object-spilling-directory to a larger disk, lower activations.num_tokens, or set activations.dtype"
                " to bf16 to halve it",
            )

    def describe(self) -> str:
        """Return the plan as one line for people."""
        text = (
            f"{self.num_shards} shards, {format_bytes(self.total_bytes)} ({format_bytes(self.missing_bytes)} to write"
        )
        text += f", {format_bytes(self.free_disk_bytes)} free)"
        if self.spilled_bytes:
            places = ", ".join(
                dict.fromkeys(str(store.spill_directory) for store in self.stores if store.spill_directory)
            )
            text += f"; {format_bytes(self.spilled_bytes)} more than the object store holds, Ray will spill to {places}"
        return text


def plan_bank(
    d_in: int,
    spec: ActivationsSpec,
    directory: Path,
    *,
    num_features: int = 0,
    fingerprint: str | None = None,
    stores: Sequence[NodeStore] = (),
) -> BankPlan:
    """Size a bank, without starting or creating anything.

    Args:
        d_in: Width of a row.
        spec: Row counts, shard size and row type.
        directory: Folder of banks, as given to ``build_bank``; it need not exist.
        num_features: Width of the ground-truth features kept beside each evaluation row; 0 when there are none.
        fingerprint: Fingerprint of the subject, when it is known: files that already exist are then not counted.
        stores: The object stores, when they are known.
    """
    evaluation_bytes = spec.evaluation_tokens * (d_in + num_features) * _FLOAT32_BYTES
    calibration_bytes = spec.calibration_tokens * d_in * _FLOAT32_BYTES
    row_bytes = d_in * STORAGE[spec.dtype].itemsize
    train_bytes, present_bytes = spec.num_tokens * row_bytes, 0
    if fingerprint is not None:
        directory = directory / bank_key(fingerprint, spec)
        if directory.is_dir():  # the folder of a bank that was admitted: its files can be listed
            requests = bank_requests(fingerprint, spec)
            sizes = [*(request.num_rows * row_bytes for request in requests[:-2]), calibration_bytes, evaluation_bytes]
            pairs = zip(requests, sizes, strict=True)
            present_bytes = sum(size for request, size in pairs if (directory / request.file_name).exists())
    return BankPlan(
        directory=directory,
        num_shards=count_shards(spec),
        train_bytes=train_bytes,
        calibration_bytes=calibration_bytes,
        evaluation_bytes=evaluation_bytes,
        missing_bytes=train_bytes + calibration_bytes + evaluation_bytes - present_bytes,
        free_disk_bytes=shutil.disk_usage(existing(directory)).free,
        stores=tuple(stores),
    )


def format_bytes(count: int) -> str:
    """Return a byte count with a decimal unit: ``1.5 GB``."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
