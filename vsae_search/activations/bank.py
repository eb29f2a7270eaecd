"""The activation bank: shard files on disk, the same arrays once in the Ray object store, one handle for every trial.

The driver owns every object, and every object is the result of a task that can be run again: a node that dies costs a
reload. The tasks ask for no CPU, because a trial that waits for a lost shard keeps its own CPU, and in a cluster packed
with such trials a task that wanted one would never start. Since Ray would then start every task at once, each in a
process of its own, the driver hands them out a few at a time.

On more than one node the directory must be on a file system that all of them share; otherwise each node harvests what
it does not find, which is correct but slow.

Shapes: N rows, D d_in, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import ray

from vsae_search.activations.files import ShardRequest, digest, remove_stale_temporaries
from vsae_search.activations.harvest import ROWS, WrittenShard, ensure_shard, load_or_harvest
from vsae_search.activations.manifest import (
    BankManifest,
    ShardEntry,
    bank_key,
    bank_requests,
    read_manifest,
    write_manifest,
)
from vsae_search.activations.plan import BankPlan, plan_bank
from vsae_search.activations.statistics import combine
from vsae_search.activations.stream import BatchStream
from vsae_search.errors import CorruptFile, EnvironmentNotReady, VsaeSearchError
from vsae_search.subjects import ReadsText, Rows, Subject

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vsae_search.space import ActivationsSpec
    from vsae_search.subjects import Split

ObjectRef: TypeAlias = Any
"""Ray has no types that a checker can follow."""

Progress: TypeAlias = Callable[[int, int], None]

_MAX_RETRIES = 5
_MAX_TASKS = 64

_OPTIONS = {"num_cpus": 0, "max_retries": _MAX_RETRIES, "scheduling_strategy": "SPREAD"}
_ensure_task = ray.remote(**_OPTIONS)(ensure_shard)
_load_task = ray.remote(**_OPTIONS, num_returns=2)(load_or_harvest)


@dataclass(frozen=True)
class ActivationBank:
    """A small picklable handle to a bank. It carries references and no rows, so it is cheap to pass to every trial.

    Pass it to trials inside another object (``tune.with_parameters(train, bank=bank)``): its references then stay
    references. The driver that built the bank must stay alive, and hold the handle, while trials use it.

    Attributes:
        manifest: What the bank holds.
        plan: Its size against the disk and the object store, when it was built.
        shards: References to the training shards, in order.
        calibration_ref: Reference to the calibration rows.
        evaluation_ref: Reference to the evaluation rows.
    """

    manifest: BankManifest
    plan: BankPlan
    shards: tuple[ObjectRef, ...]
    calibration_ref: ObjectRef
    evaluation_ref: ObjectRef

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> BatchStream:
        """Open an endless stream of batches x_BD (float32, fresh, multiplied by ``manifest.scale``).

        Args:
            batch_size: Rows per batch.
            seed: Seed of the shard order; each epoch has an order of its own.
            device: Where the batches go.
        """
        return BatchStream(
            self._load,
            self.manifest.shard_rows,
            d_in=self.manifest.d_in,
            dtype=self.manifest.dtype,
            scale=self.manifest.scale,
            batch_size=batch_size,
            seed=seed,
            device=device,
            prefetch=self._prefetch,
        )

    def evaluation(self) -> Rows:
        """Return a copy of the evaluation rows: unscaled float32, in sequence order, the same for every trial."""
        return Rows(**{name: array.copy() for name, array in fetch(self.evaluation_ref).items()})

    def calibration(self) -> NDArray[np.float32]:
        """Return a copy of the calibration rows [N, D]: unscaled float32, disjoint from training and evaluation."""
        x_ND: NDArray[np.float32] = fetch(self.calibration_ref)[ROWS].copy()
        return x_ND

    def verify(self) -> None:
        """Compare every array in the object store with its digest; reads the whole bank.

        Raises:
            CorruptFile: Something wrote to a shared array.
        """
        references = (*self.shards, self.calibration_ref, self.evaluation_ref)
        for entry, reference in zip(self.manifest.files, references, strict=True):
            if digest(fetch(reference)) != entry.sha256:
                raise CorruptFile(
                    f"the rows of {entry.file} were changed in the object store",
                    "restart the sweep: its files are unchanged, but trials since then have seen other rows",
                )

    def _load(self, index: int) -> NDArray[Any]:
        x_ND: NDArray[Any] = fetch(self.shards[index])[ROWS]
        return x_ND

    def _prefetch(self, index: int) -> None:
        ray.wait([self.shards[index]], timeout=0, fetch_local=True)


def build_bank(
    subject: Subject, spec: ActivationsSpec, directory: Path, *, on_progress: Progress | None = None
) -> ActivationBank:
    """Build the bank of a subject, or open it when its files exist, and place it in the object store.

    Files go to ``directory/<key>/``, where the key is a hash of the subject's fingerprint and of ``spec``. The manifest
    is written last. A build that was interrupted reuses the files it left.

    Args:
        subject: What is being explained.
        spec: Row counts, shard size and row type.
        directory: Folder of banks.
        on_progress: Called with (steps done, steps in all); a step is a file written or a file loaded.

    Raises:
        EnvironmentNotReady: Ray is not running, or the disk is too small.
        CorruptFile: A file of the bank is damaged.
        UserInputError: The subject's rows cannot be stored or normalised.
    """
    if not ray.is_initialized():
        raise EnvironmentNotReady("Ray is not running", "call ray.init() before building an activation bank")
    plan = plan_bank(
        subject.d_in,
        spec,
        directory,
        num_features=0 if subject.truth is None else len(subject.truth.directions_MD),
        fingerprint=subject.fingerprint,
        object_store_bytes=int(ray.cluster_resources().get("object_store_memory", 0)),
    )
    plan.check()
    home = plan.directory.absolute()  # workers have working directories of their own
    home.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(home)
    requests = bank_requests(subject.fingerprint, spec)
    manifest = read_manifest(home, requests)
    report = _Counter(on_progress, len(requests) * (2 if manifest is None else 1))
    subject_ref = ray.put(subject)
    if manifest is None:
        _prepare(subject, spec)
        written = _write(subject_ref, requests, home, report, gpu=_harvests_on_gpu(subject))
        manifest = _describe(subject, spec, requests, written)
        write_manifest(home, manifest)
    references = _serve(subject_ref, requests, manifest.files, home, report)
    return ActivationBank(manifest, plan, references[:-2], references[-2], references[-1])


def fetch(reference: ObjectRef) -> Any:
    """Return an object, waiting for it to be rebuilt if it was lost.

    Raises:
        VsaeSearchError: The task that makes it failed with this error; it is raised as it was there.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VsaeSearchError):
            raise error.cause from None
        raise


class _Counter:
    """Counts steps and reports them."""

    def __init__(self, on_progress: Progress | None, total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def _prepare(subject: Subject, spec: ActivationsSpec) -> None:
    """Let a subject that reads text tokenise it here, once, and refuse a text that is too short."""
    if isinstance(subject, ReadsText):
        rows: dict[Split, int] = {
            "train": spec.num_tokens,
            "calibration": spec.calibration_tokens,
            "evaluation": spec.evaluation_tokens,
        }
        subject.prepare(rows, spec.shard_tokens)


def _harvests_on_gpu(subject: Subject) -> bool:
    """Return whether each harvester is given a GPU of its own; several GPUs then harvest at the same time."""
    return isinstance(subject, ReadsText) and subject.wants_gpu and ray.cluster_resources().get("GPU", 0) >= 1


def _write(
    subject_ref: ObjectRef, requests: Sequence[ShardRequest], home: Path, report: _Counter, *, gpu: bool
) -> list[WrittenShard]:
    """Have every file written (or found) and return the reports, in order."""
    task = _ensure_task.options(num_gpus=1) if gpu else _ensure_task
    acknowledged = _run_windowed([partial(task.remote, subject_ref, request, home) for request in requests], report)
    return [written for written in acknowledged if isinstance(written, WrittenShard)]


def _serve(
    subject_ref: ObjectRef,
    requests: Sequence[ShardRequest],
    entries: Sequence[ShardEntry],
    home: Path,
    report: _Counter,
) -> tuple[ObjectRef, ...]:
    """Place every file in the object store and return the references, in order."""
    references: dict[int, ObjectRef] = {}

    def submit(index: int) -> ObjectRef:
        references[index], acknowledgement = _load_task.remote(subject_ref, requests[index], entries[index], home)
        return acknowledgement

    _run_windowed([partial(submit, index) for index in range(len(requests))], report)
    return tuple(references[index] for index in range(len(requests)))


def _run_windowed(submits: Sequence[Callable[[], ObjectRef]], report: _Counter) -> list[Any]:
    """Submit tasks a few at a time and return their (small) results in order; the first error is raised."""
    window = min(_MAX_TASKS, max(1, int(ray.cluster_resources().get("CPU", 1))))
    results: list[Any] = [None] * len(submits)
    pending: dict[ObjectRef, int] = {}
    submitted = 0
    while submitted < len(submits) or pending:
        while submitted < len(submits) and len(pending) < window:
            pending[submits[submitted]()] = submitted
            submitted += 1
        ready, _ = ray.wait(list(pending), num_returns=1)
        for reference in ready:
            results[pending.pop(reference)] = fetch(reference)
            report()
    return results


def _describe(
    subject: Subject, spec: ActivationsSpec, requests: Sequence[ShardRequest], written: Sequence[WrittenShard]
) -> BankManifest:
    """Return the manifest of a bank whose files have all been written."""
    assert len(written) == len(requests), "every file is accounted for"
    train = [shard for shard in written if shard.entry.split == "train"]
    calibration, evaluation = written[-2].entry, written[-1].entry
    statistics = combine([shard.sums for shard in train])
    return BankManifest(
        key=bank_key(subject.fingerprint, spec),
        subject=subject.fingerprint,
        d_in=subject.d_in,
        num_rows=sum(shard.sums.num_rows for shard in train),
        shard_rows=tuple(shard.sums.num_rows for shard in train),
        dtype=spec.dtype,
        scale=statistics.scale,
        mean_D=statistics.mean_D,
        max_norm=statistics.max_norm,
        median_norm=statistics.median_norm,
        high_norm_fraction=statistics.high_norm_fraction,
        high_norm_energy=statistics.high_norm_energy,
        evaluation_rows=spec.evaluation_tokens,
        evaluation_digest=evaluation.sha256,
        calibration_rows=spec.calibration_tokens,
        calibration_digest=calibration.sha256,
        files=tuple(shard.entry for shard in written),
    )
