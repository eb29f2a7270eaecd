"""One trial: build, train, evaluate at every rung, save. Knows nothing of Ray.

Shapes: B batch, N calibration rows, D d_in.
"""

from __future__ import annotations

import math
import shutil
import socket
import time
import traceback
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.numpy import save_file

from vsae_search import saes
from vsae_search.atomic import replacing
from vsae_search.errors import CorruptFile, Diverged, EnvironmentNotReady, UserInputError
from vsae_search.evaluation import evaluate
from vsae_search.search.curves import write_curve
from vsae_search.search.faults import told_of_gpu
from vsae_search.search.objectives import usable
from vsae_search.search.records import (
    REFUSED,
    RungRecord,
    TrialRecord,
    read_record,
    trial_directory,
    write_record,
)
from vsae_search.search.resources.packing import Packing, Share
from vsae_search.space.secrets import mask_secrets
from vsae_search.training import Curve, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vsae_search.evaluation import Evaluation
    from vsae_search.saes import SparseAutoencoder
    from vsae_search.search.assignment import Assignment
    from vsae_search.space import TrainingSpec
    from vsae_search.subjects import Baseline, Rows, Subject
    from vsae_search.training import Rung

CHECKPOINT_FOLDER = "checkpoint"
ARRAYS_FILE = "arrays.safetensors"
RUNG_METRICS = frozenset(
    {"l0", "delta_ce", "fvu", "dead_fraction", "dense_fraction", "mmcs", "recovered_fraction"},
)
"""What is measured at a rung before the last; everything is measured at the end."""
PARTIAL_FILE = "partial.json"
"""The record of a trial that is not finished, as of its last rung."""
_ERROR_LENGTH = 4000


class Manifest(Protocol):
    """The one number of the bank's manifest that a trial needs."""

    @property
    def scale(self) -> float:
        """Factor that brings rows to E‖x‖² = d_in."""
        ...


class Bank(Protocol):
    """What a trial needs of the activation bank."""

    @property
    def manifest(self) -> Manifest:
        """Describes the rows."""
        ...

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> Iterator[Tensor]:
        """Endless scaled batches."""
        ...

    def evaluation(self) -> Rows:
        """The fixed evaluation rows, unscaled."""
        ...

    def calibration(self) -> NDArray[np.float32]:
        """The calibration rows, unscaled."""
        ...


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share; small, because rows stay in the object store.

    Attributes:
        bank: Handle to the rows.
        subject: What is explained.
        baseline: Clean and ablated losses on the evaluation rows, computed once.
        training: Training budget and schedule.
        directory: Absolute sweep directory, on a file system that every node sees.
        packing: What every trial gets of a machine.
        share: What the trial that runs with this context gets.
    """

    bank: Bank
    subject: Subject
    baseline: Baseline
    training: TrainingSpec
    directory: Path
    packing: Packing = field(default_factory=Packing)
    share: Share = field(default_factory=Share)

    def of(self, assignment: Assignment) -> TrialContext:
        """The context of one trial, with its share."""
        return replace(self, share=self.packing.share(assignment.architecture, assignment.params))

    @property
    def device(self) -> str:
        """Where a trial runs."""
        return "cuda" if self.share.gpus > 0 else "cpu"


class TrialRun:
    """One attempt at one trial.

    Args:
        assignment: What to train.
        context: What all trials share.
        report: Called with the record so far at every rung before the last; its state is ``stopped``, because that
            is what the trial is if it goes no further.
    """

    def __init__(self, assignment: Assignment, context: TrialContext, report: Callable[[TrialRecord], None]) -> None:
        self.assignment, self.context, self.report = assignment, context, report
        self.directory = trial_directory(context.directory, assignment.uid)
        self.started = time.monotonic()
        self.started_at = _now()
        self.evaluate_s = 0.0
        self.train_s = 0.0
        self.rungs: dict[int, RungRecord] = {}
        self.curve = Curve()

    def run(self) -> TrialRecord:
        """Train and evaluate.

        Returns:
            The finished record: ``completed``, or ``diverged`` when the same configuration would end the same way
            again: a number is not finite, the GPU's memory does not hold it, or the architecture refuses the
            combination. Weights and arrays are on disk when it completed.
        """
        if not self.context.directory.parent.is_dir():  # a node that joined later, and does not share the folder
            raise EnvironmentNotReady(
                f"{socket.gethostname()} does not see {self.context.directory}", "mount the shared folder on this node"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        self.rungs = self._earlier_rungs()
        try:
            metrics = self._train_from_checkpoint()
        except Diverged as error:
            record = self._record("diverged", error=error.message)
        except UserInputError as error:
            record = self._record("diverged", error=f"{REFUSED}{error.message}")
        except torch.OutOfMemoryError as error:
            record = self._record("diverged", error=f"out of memory on the GPU: {error}")
        else:
            record = self._record("completed", metrics=metrics)
        write_curve(self.directory, self.curve.columns)
        clear_attempt(self.directory)
        return record

    def failed(self, error: BaseException) -> TrialRecord:
        """The record of an attempt that ended in an unexpected exception."""
        trace = "".join(traceback.format_exception(error))[-_ERROR_LENGTH:]
        return self._record("failed", error=told_of_gpu(error) + trace)

    def _train_from_checkpoint(self) -> dict[str, float]:
        """Go on from the checkpoint of an earlier attempt; start afresh when that cannot be read."""
        resumes = (self.directory / CHECKPOINT_FOLDER).exists()
        try:
            return self._train()
        except (CorruptFile, UserInputError):
            if not resumes:
                raise
        clear_attempt(self.directory)
        self.rungs = {}
        return self._train()

    def _train(self) -> dict[str, float]:
        context, assignment = self.context, self.assignment
        self.scaled = self._calibration()
        sae = saes.create(
            assignment.architecture, seed=assignment.seed, d_in=context.subject.d_in, **assignment.params
        ).to(context.device)
        sae.initialise(self.scaled)
        if sae.wants_truth:
            _tell_truth(sae, context.subject)
        self.rows = context.bank.evaluation()
        stream = context.bank.stream(
            batch_size=context.training.batch_size, seed=assignment.seed, device=context.device
        )
        self.curve = Curve()
        final: list[dict[str, float]] = []

        def on_rung(rung: Rung) -> None:
            evaluation = self._evaluate(sae, rung)
            if rung.fraction < 1.0:
                self._report_rung()
                return
            self._save(sae, evaluation)
            final.append(self.rungs[rung.index].metrics)

        fit(
            sae,
            stream,
            context.training,
            device=context.device,
            on_rung=on_rung,
            checkpoint=self.directory / CHECKPOINT_FOLDER,
            curve=self.curve,
        )
        assert final, "the last rung is at the end of training"
        return final[0]

    def _calibration(self) -> Tensor:
        """Scaled calibration rows [N, D] on the trial's device; a copy, because shared rows must not be written to."""
        scale = np.float32(self.context.bank.manifest.scale)
        return torch.from_numpy(np.multiply(self.context.bank.calibration(), scale)).to(self.context.device)

    def _evaluate(self, sae: SparseAutoencoder, rung: Rung) -> Evaluation:
        """Calibrate and evaluate at a rung, and remember its numbers."""
        begun = time.monotonic()
        sae.calibrate(self.scaled)
        evaluation = evaluate(
            sae,
            self.rows,
            scale=self.context.bank.manifest.scale,
            subject=self.context.subject,
            baseline=self.context.baseline,
            only=RUNG_METRICS if rung.fraction < 1.0 else None,
        )
        self.evaluate_s += time.monotonic() - begun
        self.train_s = rung.train_s
        metrics = {**evaluation.metrics, **_finite(sae.metrics()), **_training_metrics(rung)}
        if not usable(metrics):
            raise Diverged(f"an objective is missing or not finite at rung {rung.index}")
        self.rungs[rung.index] = RungRecord(
            index=rung.index, fraction=rung.fraction, step=rung.step, tokens=rung.tokens, metrics=metrics
        )
        return evaluation

    def _report_rung(self) -> None:
        record = self._record("stopped", metrics=self.rungs[max(self.rungs)].metrics)
        write_record(self.directory / PARTIAL_FILE, record, durable=False)
        write_curve(self.directory, self.curve.columns)
        self.report(record)

    def _save(self, sae: SparseAutoencoder, evaluation: Evaluation) -> None:
        saes.save(sae, self.directory)
        if evaluation.arrays:
            _save_arrays(self.directory / ARRAYS_FILE, evaluation.arrays)

    def _earlier_rungs(self) -> dict[int, RungRecord]:
        """Rungs that an attempt before this one reached, when its training can be gone on with."""
        partial = self.directory / PARTIAL_FILE
        if not partial.is_file() or not (self.directory / CHECKPOINT_FOLDER).exists():
            return {}
        try:
            return {rung.index: rung for rung in read_record(partial, TrialRecord).rungs}
        except CorruptFile:
            return {}

    def _record(self, state: Any, *, metrics: dict[str, float] | None = None, error: str | None = None) -> TrialRecord:
        wall_s = time.monotonic() - self.started
        return TrialRecord(
            uid=self.assignment.uid,
            architecture=self.assignment.architecture,
            number=self.assignment.number,
            params=self.assignment.params,
            seed=self.assignment.seed,
            state=state,
            metrics=metrics or {},
            rungs=tuple(self.rungs[index] for index in sorted(self.rungs)),
            train_s=self.train_s,
            evaluate_s=self.evaluate_s,
            wall_s=wall_s,
            overhead_s=max(wall_s - self.train_s, 0.0),
            attempt=self.assignment.attempt,
            error=None if error is None else mask_secrets(error),
            started_at=self.started_at,
            ended_at=_now(),
        )


def clear_attempt(directory: Path) -> None:
    """Remove what only an unfinished trial needs: its checkpoint and its partial record."""
    checkpoint = directory / CHECKPOINT_FOLDER
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint, ignore_errors=True)
    else:
        checkpoint.unlink(missing_ok=True)
    (directory / PARTIAL_FILE).unlink(missing_ok=True)


def _tell_truth(sae: SparseAutoencoder, subject: Subject) -> None:
    truth = subject.truth
    if truth is None:
        raise UserInputError(
            f"{sae.name} asks for the true features, and this subject has none", "an oracle control needs a toy subject"
        )
    sae.assign_sets(torch.from_numpy(truth.directions_MD), [(group.kind, group.members) for group in truth.sets])


def _training_metrics(rung: Rung) -> dict[str, float]:
    """Training numbers of a rung, apart from the evaluation's by their prefix."""
    numbers = {**rung.losses, "grad_norm": rung.grad_norm, "lr": rung.lr, "dead_fraction": rung.dead_fraction}
    return _finite({f"train_{key}": value for key, value in numbers.items()})


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def _save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with replacing(path) as temporary:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, temporary)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
