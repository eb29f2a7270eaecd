"""``run_experiment``: every trial of a toy experiment as a Ray task, through any number of interruptions."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError
from safetensors.numpy import save as save_arrays

from vsae_search.atomic import write_bytes
from vsae_search.search.experiment.plan import TOY_FILE, ToyTrial, arm_plans, toy_trials
from vsae_search.search.experiment.trial import ToyOutcome, run_toy_trial
from vsae_search.search.faults import told_plainly
from vsae_search.search.records import SWEEP_FILE, SweepRecord, TrialRecord, trial_directory, write_record
from vsae_search.search.resources.cluster import connected
from vsae_search.search.resources.reach import require_shared
from vsae_search.search.signals import SweepStopped, own_interrupts, terminable
from vsae_search.search.store.directory import earlier_session, prepare_directory, write_space
from vsae_search.search.store.environment import source_commit, versions
from vsae_search.search.store.ledger import Ledger
from vsae_search.search.store.live import LiveFile
from vsae_search.search.store.lock import driver_lock
from vsae_search.search.store.requests import stop_requests
from vsae_search.space import ResourcesSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vsae_search.search.listener import SweepListener
    from vsae_search.search.records import SweepStatus
    from vsae_search.search.signals import Interrupts
    from vsae_search.space import ExperimentSpace

_LOOK_S = 0.2  # between two looks at signals and requests to stop
_RETRIES = 2
_OBJECT_STORE_GB = 0.1  # a toy model has a few thousand numbers


@dataclass(frozen=True)
class _Running:
    """A trial that has a worker."""

    trial: ToyTrial
    started_at: str


def run_experiment(
    space: ExperimentSpace,
    *,
    root: Path,
    listeners: Sequence[SweepListener] = (),
    ray_address: str | None = None,
    on_drain: Callable[[int], None] | None = None,
) -> SweepRecord:
    """Run an experiment, or go on with it where it stopped; trials that have ended are kept.

    Everything is kept under ``<root>/<space.name>/``, in the files of a sweep. A trial does not depend on the others,
    so the same experiment gives the same trials with any concurrency.

    Args:
        space: What to train.
        root: Folder of sweeps.
        listeners: Told of the experiment as it runs.
        ray_address: Address of a Ray cluster; None starts Ray on this machine, unless this process is connected.
        on_drain: Told, once the experiment has been asked to stop, how many trials are still to finish.

    Returns:
        The record of the completed experiment.

    Raises:
        UserInputError: The directory is of another experiment or search space.
        EnvironmentNotReady: Another driver runs it, or the disk is full.
        KeyboardInterrupt: It was interrupted; the same call goes on with it.
        Terminated: The same, by SIGTERM.
    """
    directory = prepare_directory(space, root)
    with (
        told_plainly(directory),
        terminable() as interrupts,
        driver_lock(directory),
        stop_requests(directory, interrupts),
    ):
        earlier = earlier_session(space, directory)
        write_space(space, directory)
        ledger = Ledger(directory, [LiveFile(directory), *listeners])
        todo = [trial for trial in toy_trials(space) if trial.assignment.uid not in ledger.ended]
        if not todo and earlier is not None:
            return _tell(ledger, _record(space, earlier, None).model_copy(update={"sessions": earlier.sessions}))
        with connected(_resources(space), ray_address) as cluster:
            require_shared(directory)
            slots = cluster.concurrency(_resources(space), len(todo))
            facts = {"max_concurrent": slots, "cpus_per_trial": 1, "nodes": cluster.nodes}
            record = _record(space, earlier, facts).model_copy(update={"ray_logs": cluster.logs})
            return _run(record, todo, ledger, slots, interrupts, on_drain)


def _resources(space: ExperimentSpace) -> ResourcesSpec:
    return ResourcesSpec(max_concurrent=space.resources.max_concurrent, object_store_gb=_OBJECT_STORE_GB)


def _record(space: ExperimentSpace, earlier: SweepRecord | None, resources: dict[str, Any] | None) -> SweepRecord:
    """The record of an experiment that runs, or, without resources, of one with nothing left to do."""
    commit, dirty = source_commit()
    if resources is None:
        assert earlier is not None, "something is left to do of an experiment that was never started"
        resources = earlier.resources
    return SweepRecord(
        name=space.name,
        description=space.description,
        digest=space.digest(),
        space=space.model_dump(mode="json"),
        seed=space.seed,
        status="running",
        versions=versions(),
        git_commit=commit,
        git_dirty=dirty,
        architectures=arm_plans(space),
        resources=resources,
        sessions=1 if earlier is None else earlier.sessions + 1,
        started_at=_now() if earlier is None else earlier.started_at,
    )


def _tell(ledger: Ledger, record: SweepRecord) -> SweepRecord:
    """Write and tell the end of an experiment of which nothing is left to run."""
    record = record.model_copy(update={"status": "completed", "ended_at": _now()})
    write_record(ledger.directory / SWEEP_FILE, record)
    try:
        ledger.open(record)
    finally:
        ledger.close(record)
    return record


def _run(
    record: SweepRecord,
    todo: Sequence[ToyTrial],
    ledger: Ledger,
    slots: int,
    interrupts: Interrupts,
    on_drain: Callable[[int], None] | None,
) -> SweepRecord:
    """Run what is left; the record on disk says how it ended in every case."""
    write_record(ledger.directory / SWEEP_FILE, record)
    status: SweepStatus = "failed"
    try:
        ledger.open(record)
        _run_tasks(todo, ledger, slots, interrupts, on_drain)
        left = [trial for trial in todo if trial.assignment.uid not in ledger.ended]
        status = "interrupted" if left else "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        record = record.model_copy(update={"status": status, "ended_at": _now()})
        try:
            write_record(ledger.directory / SWEEP_FILE, record)
        finally:
            ledger.close(record)
    if status == "interrupted":
        raise KeyboardInterrupt
    return record


def _run_tasks(
    todo: Sequence[ToyTrial],
    ledger: Ledger,
    slots: int,
    interrupts: Interrupts,
    on_drain: Callable[[int], None] | None,
) -> None:
    """Keep as many tasks running as there are slots, until nothing is left or the experiment is to stop."""
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(run_toy_trial)
    waiting, running, told = deque(todo), dict[Any, _Running](), False
    try:
        with own_interrupts(), interrupts.looping(), suppress(SweepStopped):
            while running or waiting:
                while waiting and len(running) < slots and not interrupts.draining:
                    trial = waiting.popleft()
                    ledger.start(trial.assignment)
                    running[task.remote(trial.setting, trial.assignment.seed)] = _Running(trial, _now())
                if interrupts.draining and not told:
                    told = True
                    if on_drain is not None:
                        on_drain(len(running))
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=_LOOK_S)
                for reference in done:
                    _end(ledger, running.pop(reference), reference)
                interrupts.check()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _end(ledger: Ledger, running: _Running, reference: Any) -> None:
    """Keep what came back from a worker: first the arrays, then the record that makes the trial count."""
    outcome = _outcome(reference)
    assignment = running.trial.assignment
    if outcome.arrays:
        folder = trial_directory(ledger.directory, assignment.uid)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / TOY_FILE, save_arrays(outcome.arrays))
    record = TrialRecord(
        uid=assignment.uid,
        architecture=assignment.architecture,
        number=assignment.number,
        params=assignment.params,
        seed=assignment.seed,
        state=outcome.state,
        metrics=outcome.metrics,
        train_s=outcome.train_s,
        evaluate_s=outcome.evaluate_s,
        error=outcome.error,
        started_at=running.started_at,
        ended_at=_now(),
    )
    ledger.announce(ledger.end(record))


def _outcome(reference: Any) -> ToyOutcome:
    """The result of a task; whatever a worker raises, or dies of, ends its trial and no other."""
    try:
        outcome: ToyOutcome = ray.get(reference)
    except RayTaskError as error:
        return ToyOutcome("failed", error=str(error.cause or error))
    except RayError as error:
        return ToyOutcome("failed", error=f"{type(error).__name__}: {error}")
    return outcome


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
