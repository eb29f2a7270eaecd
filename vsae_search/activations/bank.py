"""The activation bank: shard files on disk, the same arrays once in the Ray object store, one handle for every trial.

On a Ray that ends with the driver, the driver owns every object; on a cluster that goes on, a detached actor does, so
that the next driver finds the bank in place (see ``owner``). Every object is the result of a task that can be run again
(see ``tasks``).

On more than one node the directory must be on a file system that all of them share; otherwise each node harvests what
it does not find, which is correct but slow.

Shapes: N rows, D d_in, M features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from vsae_search.activations.files import ShardRequest, digest, remove_stale_temporaries
from vsae_search.activations.harvest import ROWS, WrittenShard
from vsae_search.activations.harvesters import write_on_gpus
from vsae_search.activations.manifest import (
    BankManifest,
    ShardEntry,
    bank_key,
    bank_requests,
    read_manifest,
    write_manifest,
)
from vsae_search.activations.owner import (
    IDLE_S,
    has_owner,
    outlives_driver,
    owner_name,
    release_owner,
    serve_from_owner,
)
from vsae_search.activations.plan import BankPlan, plan_bank
from vsae_search.activations.progress import OnProgress, ProgressReporter
from vsae_search.activations.statistics import combine
from vsae_search.activations.stores import measure_stores
from vsae_search.activations.stream import BatchStream
from vsae_search.activations.tasks import ObjectRef, ensure_task, fetch, load_task, run_windowed
from vsae_search.errors import CorruptFile, EnvironmentNotReady
from vsae_search.subjects import ReadsText, Rows, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vsae_search.space import ActivationsSpec
    from vsae_search.subjects import Split


@dataclass(frozen=True)
class ActivationBank:
    """A small picklable handle to a bank. It carries references and no rows, so it is cheap to pass to every trial.

    Pass it to trials inside another object (``tune.with_parameters(train, bank=bank)``): its references then stay
    references. Who built the bank must stay alive while trials use it, and hold the handle unless it has an owner.

    Attributes:
        manifest: What the bank holds.
        plan: Its size against the disk and the object store, when it was built.
        shards: References to the training shards, in order.
        calibration_ref: Reference to the calibration rows.
        evaluation_ref: Reference to the evaluation rows.
        owner: Name of the actor that keeps the bank in the object store after this driver; None when there is none.
    """

    manifest: BankManifest
    plan: BankPlan
    shards: tuple[ObjectRef, ...]
    calibration_ref: ObjectRef
    evaluation_ref: ObjectRef
    owner: str | None = None

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

    def release(self) -> None:
        """Let go of the bank: its owner ends now, unless another driver uses it, and not only when it has been idle.

        Without an owner there is nothing to do: the rows go with the last handle.
        """
        if self.owner is not None:
            release_owner(self.owner)

    def _load(self, index: int) -> NDArray[Any]:
        x_ND: NDArray[Any] = fetch(self.shards[index])[ROWS]
        return x_ND

    def _prefetch(self, index: int) -> None:
        ray.wait([self.shards[index]], timeout=0, fetch_local=True)


def build_bank(
    subject: Subject,
    spec: ActivationsSpec,
    directory: Path,
    *,
    on_progress: OnProgress | None = None,
    detached: bool | None = None,
    idle_s: float = IDLE_S,
) -> ActivationBank:
    """Build the bank of a subject, or open it when its files exist, and place it in the object store.

    Files go to ``directory/<key>/``, where the key is a hash of the subject's fingerprint and of ``spec``. The manifest
    is written last. A build that was interrupted reuses the files it left.

    Args:
        subject: What is being explained.
        spec: Row counts, shard size and row type.
        directory: Folder of banks.
        on_progress: Told how far it is: at the start of a stage, after every file, and about once a second.
        detached: Whether a detached actor owns the objects, so that the next driver finds them in the object store;
            None has one where Ray outlives this driver.
        idle_s: How long such an actor waits for the next driver.

    Raises:
        EnvironmentNotReady: Ray is not running, or the disk or the spill folder is too small.
        CorruptFile: A file of the bank is damaged.
        UserInputError: The subject's rows cannot be stored or normalised.
    """
    if not ray.is_initialized():
        raise EnvironmentNotReady("Ray is not running", "call ray.init() before building an activation bank")
    features = 0 if subject.truth is None else len(subject.truth.directions_MD)
    plan = plan_bank(subject.d_in, spec, directory, num_features=features, fingerprint=subject.fingerprint)
    plan.check()
    home = plan.directory.absolute()  # workers have working directories of their own
    requests = bank_requests(subject.fingerprint, spec)
    manifest = read_manifest(home, requests)
    detached = outlives_driver() if detached is None else detached
    if not (detached and manifest is not None and has_owner(owner_name(manifest, home))):
        plan = replace(plan, stores=measure_stores(home, plan.total_bytes))
        plan.check()
    home.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(home)
    report = ProgressReporter(on_progress)
    if manifest is None:
        manifest = _harvest(subject, spec, requests, home, report)
    if not detached:
        references = _serve(ray.put(subject), requests, manifest.files, home, report)
        return ActivationBank(manifest, plan, references[:-2], references[-2], references[-1])
    name = owner_name(manifest, home)
    references = serve_from_owner(name, subject, requests, manifest.files, home, report, idle_s=idle_s)
    return ActivationBank(manifest, plan, references[:-2], references[-2], references[-1], name)


def hold_out(
    bank: ActivationBank, subject: Subject, num_rows: int, *, on_progress: OnProgress | None = None
) -> ActivationBank:
    """Return the same bank with another evaluation set: rows of the ``confirm`` split, which no sweep reads.

    Training and calibration rows, and their scale, are those of ``bank``. The rows are kept in a file beside its own.

    Args:
        bank: The bank of a sweep.
        subject: Its subject.
        num_rows: Rows of the held-out set.
        on_progress: Told how far it is.

    Raises:
        EnvironmentNotReady: The disk is full.
        CorruptFile: The file of the held-out rows is damaged.
        UserInputError: The subject's text is too short.
    """
    home = bank.plan.directory.absolute()
    request = ShardRequest(subject.fingerprint, "confirm", 0, num_rows, "fp32", num_rows)
    report, subject_ref = ProgressReporter(on_progress), ray.put(subject)
    if isinstance(subject, ReadsText):
        report.begin("tokenise")
        subject.prepare({"confirm": num_rows}, num_rows)
    (written,) = _write(subject_ref, [request], home, report, gpu=_harvests_on_gpu(subject))
    (reference,) = _serve(subject_ref, [request], [written.entry], home, report)
    changes = {
        "evaluation_rows": num_rows,
        "evaluation_digest": written.entry.sha256,
        "files": (*bank.manifest.files[:-1], written.entry),
    }
    return replace(bank, manifest=bank.manifest.model_copy(update=changes), evaluation_ref=reference)


def _harvest(
    subject: Subject, spec: ActivationsSpec, requests: Sequence[ShardRequest], home: Path, report: ProgressReporter
) -> BankManifest:
    """Have every file of a bank written, and then its manifest."""
    _prepare(subject, spec, report)
    written = _write(ray.put(subject), requests, home, report, gpu=_harvests_on_gpu(subject))
    manifest = _describe(subject, spec, requests, written)
    write_manifest(home, manifest)
    return manifest


def _prepare(subject: Subject, spec: ActivationsSpec, report: ProgressReporter) -> None:
    """Let a subject that reads text tokenise it here, once, and refuse a text that is too short."""
    if isinstance(subject, ReadsText):
        report.begin("tokenise")
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
    subject_ref: ObjectRef, requests: Sequence[ShardRequest], home: Path, report: ProgressReporter, *, gpu: bool
) -> list[WrittenShard]:
    """Have every file written (or found) and return the reports, in order."""
    report.begin("harvest", [request.num_rows for request in requests])
    if gpu:
        written = write_on_gpus(subject_ref, requests, home, report)
    else:
        tasks = {
            index: partial(ensure_task.remote, subject_ref, request, home) for index, request in enumerate(requests)
        }
        written = run_windowed(tasks, report)
    return [written[index] for index in range(len(requests))]


def _serve(
    subject_ref: ObjectRef,
    requests: Sequence[ShardRequest],
    entries: Sequence[ShardEntry],
    home: Path,
    report: ProgressReporter,
) -> tuple[ObjectRef, ...]:
    """Place every file in the object store and return the references, in order."""
    references: dict[int, ObjectRef] = {}

    def submit(index: int) -> ObjectRef:
        references[index], acknowledgement = load_task.remote(subject_ref, requests[index], entries[index], home)
        return acknowledgement

    report.begin("load", [request.num_rows for request in requests])
    run_windowed({index: partial(submit, index) for index in range(len(requests))}, report)
    return tuple(references[index] for index in range(len(requests)))


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
