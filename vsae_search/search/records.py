"""What a sweep leaves on disk: one JSON record per trial, one per sweep, each written atomically.

A sweep directory is readable without Ray, Optuna or MLflow: ``sweep.json`` and ``trials/<uid>/record.json`` hold
everything that the report needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vsae_search.atomic import write_bytes
from vsae_search.errors import CorruptFile, UserInputError

if TYPE_CHECKING:
    from pathlib import Path

TrialState = Literal["completed", "stopped", "diverged", "failed"]
SweepStatus = Literal["running", "completed", "interrupted", "failed"]

SWEEP_FILE = "sweep.json"
TRIAL_FILE = "record.json"
TRIALS_FOLDER = "trials"
REFUSED = "refused: "
"""How the error of a diverged trial begins when the architecture or the subject refused its hyper-parameters."""
BANK_FOLDER = ".bank"
"""Beside the sweeps: harvested shards and trained toy models, shared by all sweeps of one root."""


class Record(BaseModel):
    """Base of the stored records: frozen, unknown keys refused, non-finite numbers kept as strings in valid JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class RungRecord(Record):
    """A trial at one rung of its training budget.

    Attributes:
        index: Position of the rung, from 0.
        fraction: Part of the training budget that was spent.
        step: Optimiser steps taken.
        tokens: Training rows seen.
        metrics: Evaluation metrics and, prefixed with ``train_``, mean training losses since the last rung.
    """

    index: int
    fraction: float
    step: int
    tokens: int
    metrics: dict[str, float]


class TrialRecord(Record):
    """Everything known about one trial.

    Attributes:
        uid: Stable name, the same in Tune, Optuna, MLflow and on disk: ``topk-0007``.
        architecture: Registered name of the architecture.
        number: Position among the trials of its architecture, from 0.
        params: Hyper-parameters, constants included; what is not named takes the architecture's default.
        seed: Training seed, a function of the sweep seed and the uid.
        state: ``completed``; ``stopped`` early by the search; ``diverged`` (non-finite, out of memory, or refused: the
            same configuration would do it again); ``failed`` (the infrastructure gave up on it).
        metrics: Final metrics; of a stopped trial those of its last rung.
        rungs: The trial at each rung it reached.
        train_s: Seconds inside training steps.
        evaluate_s: Seconds inside evaluation.
        wall_s: Seconds from start to end as the driver saw them.
        overhead_s: ``wall_s - train_s``: start, building, evaluation, reporting and saving.
        attempt: 0 for the first attempt, one more after every failure of the infrastructure.
        audited_rung: Index of the rung at which early stopping would have ended the trial, which was finished to
            measure how often that is a mistake; None for all others.
        error: Why the trial diverged or failed.
        started_at: UTC, ISO 8601.
        ended_at: UTC, ISO 8601.
    """

    uid: str
    architecture: str
    number: int
    params: dict[str, Any]
    seed: int
    state: TrialState
    metrics: dict[str, float] = {}
    rungs: tuple[RungRecord, ...] = ()
    train_s: float = 0.0
    evaluate_s: float = 0.0
    wall_s: float = 0.0
    overhead_s: float = 0.0
    attempt: int = 0
    audited_rung: int | None = None
    error: str | None = None
    started_at: str = ""
    ended_at: str = ""


class ReferenceRecord(Record):
    """The point that hypervolumes and objectives of the sweep are measured from.

    Attributes:
        l0: Largest L0 that counts.
        delta_ce: Largest delta-CE that counts.
        source: ``given`` in the search space, or ``measured`` (largest d_sae; mean-ablated minus clean loss).
        l0_range: Smallest and largest L0 that count, when the search space asks for a range.
    """

    l0: float
    delta_ce: float
    source: Literal["given", "measured"]
    l0_range: tuple[float, float] | None = None

    def counts(self, l0: float) -> bool:
        """Whether a trial of this L0 counts as progress: anything does unless a range is asked for."""
        return self.l0_range is None or self.l0_range[0] <= l0 <= self.l0_range[1]


class ArchitecturePlan(Record):
    """The share of one architecture in a sweep.

    Attributes:
        trials: Trials in its budget.
        startup: How many of them are evenly spread start-up points.
        given_up_after: Number of trials after which the rest of the budget was cancelled, because all of them had
            diverged or failed; None when the budget was spent.
    """

    trials: int
    startup: int
    given_up_after: int | None = None


class WarmTrial(Record):
    """A configuration of an earlier sweep that this one begins with.

    Attributes:
        uid: The trial of the earlier sweep.
        architecture: Registered name.
        params: Hyper-parameters as this search space names them.
    """

    uid: str
    architecture: str
    params: dict[str, Any]


class LeftOut(Record):
    """A configuration of an earlier sweep's frontier that this one does not begin with.

    Attributes:
        uid: The trial, or the architecture, of the earlier sweep.
        reason: Why not.
    """

    uid: str
    reason: str


class WarmStart(Record):
    """What a sweep took over from the frontiers of an earlier one.

    Attributes:
        source: Name of the earlier sweep.
        directory: Where it was read.
        trials: Configurations that are run first.
        left_out: Configurations that are not, and why.
    """

    source: str
    directory: str
    trials: tuple[WarmTrial, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


class SweepRecord(Record):
    """One run of one search space.

    Attributes:
        name: Name of the sweep and of its directory.
        description: The search space's own words.
        digest: Digest of what decides results in the search space; a sweep goes on only with the same one.
        space: The whole search space, as it was given last.
        seed: Seed of the sweep.
        status: ``running``, ``completed``, ``interrupted`` (goes on when started again) or ``failed``.
        versions: Python and library versions.
        git_commit: Commit of the source tree, when there is one.
        git_dirty: Whether tracked files differed from that commit.
        reference: The reference point.
        loss_name: What delta-CE measures for this subject.
        loss_unit: Its unit.
        subject: What the subject says about itself.
        bank: Summary of the activation bank.
        architectures: Architecture to its share of the budget.
        warm_start: What was taken over from an earlier sweep.
        resources: Processors per trial, concurrency, nodes.
        early_stopping: Whether it was on, and what it did: trials stopped, trials audited, the rate of false stops.
        utilisation: Planned and achieved parts of the processors and GPUs in use during the last session.
        ray_logs: Where Ray writes its logs.
        sessions: How many times the sweep was started with trials left to run.
        started_at: UTC, ISO 8601, of the first session.
        ended_at: UTC, ISO 8601, of the last session's end; empty while running.
    """

    name: str
    description: str = ""
    digest: str
    space: dict[str, Any] = {}
    seed: int
    status: SweepStatus
    versions: dict[str, str] = {}
    git_commit: str | None = None
    git_dirty: bool | None = None
    reference: ReferenceRecord | None = None
    loss_name: str = ""
    loss_unit: str = ""
    subject: dict[str, Any] = {}
    bank: dict[str, Any] = {}
    architectures: dict[str, ArchitecturePlan] = {}
    warm_start: WarmStart | None = None
    resources: dict[str, Any] = {}
    early_stopping: dict[str, Any] = {}
    utilisation: dict[str, Any] = {}
    ray_logs: str | None = None
    sessions: int = 1
    started_at: str = ""
    ended_at: str = ""


R = TypeVar("R", bound=Record)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step: a reader, or a killed process, leaves the old file or the new one, never a part.

    Args:
        path: File to write; its folder must exist.
        text: New content, written as UTF-8.
        durable: Whether to wait until the content is on the disk, so that a power cut cannot lose it.
    """
    write_bytes(path, text.encode(), durable=durable)


def write_record(path: Path, record: Record, *, durable: bool = True) -> None:
    """Write a record as indented JSON, atomically."""
    write_text(path, record.model_dump_json(indent=2) + "\n", durable=durable)


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record back.

    Raises:
        CorruptFile: the file is not a record of this kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CorruptFile(f"{path}: not a valid record ({error.error_count()} problems)", str(error)) from error


def trial_directory(directory: Path, uid: str) -> Path:
    """The folder of one trial inside a sweep directory."""
    return directory / TRIALS_FOLDER / uid


def read_trials(directory: Path) -> dict[str, TrialRecord]:
    """Every trial record of a sweep directory by uid, in uid order."""
    files = sorted((directory / TRIALS_FOLDER).glob(f"*/{TRIAL_FILE}"))
    return {file.parent.name: read_record(file, TrialRecord) for file in files}


def load_sweep(directory: Path) -> tuple[SweepRecord, list[TrialRecord]]:
    """Read a sweep, finished or not.

    Args:
        directory: The sweep directory, ``<root>/<name>``.

    Returns:
        The sweep and the trials that have ended, in uid order.

    Raises:
        UserInputError: there is no sweep in that directory.
        CorruptFile: a record cannot be read.
    """
    if not (directory / SWEEP_FILE).is_file():
        raise UserInputError(f"no sweep in {directory}", "give the directory that holds sweep.json")
    return read_record(directory / SWEEP_FILE, SweepRecord), list(read_trials(directory).values())
