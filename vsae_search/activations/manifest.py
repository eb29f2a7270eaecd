"""The manifest of a bank: what was harvested, from what, and how to check it. Written last, so it vouches for all.

Shapes: N rows, D d_in, M features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from vsae_search.activations.codec import Dtype
from vsae_search.activations.files import FORMAT_VERSION, ShardRequest, hash_json, write_atomically
from vsae_search.errors import CorruptFile
from vsae_search.subjects import Split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.space import ActivationsSpec

MANIFEST_NAME = "manifest.json"

_MANIFEST_HINT = "delete it and start again: it is made anew from the files beside it"


class ShardEntry(BaseModel):
    """One file of a bank.

    Attributes:
        file: Name inside the bank directory.
        split: Which of the disjoint sets of rows.
        index: Position within the split.
        dtype: Row type; bf16 is held as the int16 that carries its bits.
        shapes: Shape of every array in the file, by name.
        sha256: Digest of names, types, shapes and bytes of the arrays (see ``files.digest``).
        num_bytes: Size of the arrays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    split: Split
    index: int
    dtype: Dtype
    shapes: dict[str, tuple[int, ...]]
    sha256: str
    num_bytes: int


class BankManifest(BaseModel):
    """What a bank holds.

    Attributes:
        format_version: Layout of the files.
        key: Address of the bank: subject, row counts, shard size and row type.
        subject: Fingerprint of the subject.
        d_in: Width of a row.
        num_rows: Training rows.
        shard_rows: Training rows of each shard.
        dtype: Row type of the training rows; evaluation and calibration rows are fp32.
        scale: sqrt(d_in / E||x||^2) of the training rows.
        mean_D: Mean training row, unscaled.
        max_norm: Largest norm of a training row, unscaled.
        median_norm: Typical norm of a training row that is not zero, unscaled.
        high_norm_fraction: Fraction of training rows with more than ten times the median norm.
        high_norm_energy: Their fraction of E||x||^2.
        evaluation_rows: Rows of the evaluation set.
        evaluation_digest: Digest of the evaluation set: equal digests mean comparable trials.
        calibration_rows: Rows of the calibration set.
        calibration_digest: Digest of the calibration set.
        files: Every file: training shards in order, then calibration, then evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    key: str
    subject: str
    d_in: int
    num_rows: int
    shard_rows: tuple[int, ...]
    dtype: Dtype
    scale: float
    mean_D: tuple[float, ...]
    max_norm: float
    median_norm: float
    high_norm_fraction: float
    high_norm_energy: float
    evaluation_rows: int
    evaluation_digest: str
    calibration_rows: int
    calibration_digest: str
    files: tuple[ShardEntry, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays: what the object store holds once, however many trials read it."""
        return sum(entry.num_bytes for entry in self.files)

    @property
    def max_norm_ratio(self) -> float:
        """Largest norm over typical norm; in the hundreds, outlier rows are in the bank."""
        return self.max_norm / self.median_norm


def count_shards(spec: ActivationsSpec) -> int:
    """Return the number of training shards without listing them: a plan may be far beyond what can be listed."""
    return -(-spec.num_tokens // spec.shard_tokens)


def split_rows(spec: ActivationsSpec) -> tuple[int, ...]:
    """Return the number of training rows of each shard; only the last may be smaller."""
    full, rest = divmod(spec.num_tokens, spec.shard_tokens)
    return (spec.shard_tokens,) * full + ((rest,) if rest else ())


def bank_key(fingerprint: str, spec: ActivationsSpec) -> str:
    """Return the address of a bank (16 hex digits): the same subject and sizes give the same directory."""
    return hash_json({"format": FORMAT_VERSION, "subject": fingerprint, **spec.model_dump(mode="json")})[:16]


def bank_requests(fingerprint: str, spec: ActivationsSpec) -> tuple[ShardRequest, ...]:
    """Return every file that a bank consists of: training shards in order, calibration, evaluation."""
    train = tuple(
        ShardRequest(fingerprint, "train", index, rows, spec.dtype, spec.shard_tokens)
        for index, rows in enumerate(split_rows(spec))
    )
    calibration, evaluation = spec.calibration_tokens, spec.evaluation_tokens
    return (
        *train,
        ShardRequest(fingerprint, "calibration", 0, calibration, "fp32", calibration),
        ShardRequest(fingerprint, "evaluation", 0, evaluation, "fp32", evaluation),
    )


def write_manifest(directory: Path, manifest: BankManifest) -> None:
    """Write the manifest atomically; call it once every file that it names is on disk."""
    write_atomically(directory / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode() + b"\n")


def read_manifest(directory: Path, requests: Sequence[ShardRequest]) -> BankManifest | None:
    """Read the manifest of a bank directory; None when the bank was never finished.

    Args:
        directory: The directory of the bank.
        requests: The files that it must name, in order.

    Raises:
        CorruptFile: The file is not a manifest, or is the manifest of another bank.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = BankManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CorruptFile(f"{path} is not a valid manifest ({error.error_count()} problems)", _MANIFEST_HINT) from error
    if [entry.file for entry in manifest.files] != [request.file_name for request in requests]:
        raise CorruptFile(f"{path} is the manifest of another bank", _MANIFEST_HINT)
    return manifest
