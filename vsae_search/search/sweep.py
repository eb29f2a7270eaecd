"""``run_sweep``: from a search space to one record per trial, through any number of interruptions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vsae_search.activations import build_bank
from vsae_search.search.bridge import LedgerCallback
from vsae_search.search.faults import told_plainly
from vsae_search.search.propose.budgets import trial_budgets
from vsae_search.search.propose.planning import architecture_plans, objectives_of, open_studies
from vsae_search.search.propose.searcher import StudySearcher, reconcile
from vsae_search.search.propose.warm_start import warm_start
from vsae_search.search.records import BANK_FOLDER, SWEEP_FILE, SweepRecord, write_record
from vsae_search.search.reference import reference_point
from vsae_search.search.resources.cluster import connected, require_resources
from vsae_search.search.resources.probe import packed
from vsae_search.search.resources.reach import require_shared
from vsae_search.search.resources.utilisation import UtilisationMeter
from vsae_search.search.session import run_session
from vsae_search.search.signals import terminable
from vsae_search.search.stopping.giving_up import GivingUp
from vsae_search.search.stopping.scheduler import EarlyStopping, ParetoHalving, stopping_summary
from vsae_search.search.store.directory import earlier_session, prepare_directory, write_space
from vsae_search.search.store.environment import source_commit, versions
from vsae_search.search.store.ledger import Ledger
from vsae_search.search.store.live import LiveFile
from vsae_search.search.store.lock import driver_lock
from vsae_search.search.store.requests import stop_requests
from vsae_search.search.store.studies_home import StudiesHome, studies_home
from vsae_search.search.store.truth import write_truth
from vsae_search.search.trainable import run_trial
from vsae_search.search.trial import TrialContext
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vsae_search.activations import ActivationBank, HarvestProgress
    from vsae_search.search.listener import SweepListener
    from vsae_search.search.objectives import Objectives
    from vsae_search.search.propose.studies import Studies
    from vsae_search.search.records import SweepStatus, WarmStart
    from vsae_search.search.resources.cluster import Cluster
    from vsae_search.search.resources.packing import Packing
    from vsae_search.search.signals import Interrupts
    from vsae_search.space import SearchSpace
    from vsae_search.subjects import Baseline, Subject


@dataclass(frozen=True)
class Stopping:
    """How a sweep is asked to stop, and who is told that it will."""

    interrupts: Interrupts
    on_drain: Callable[[int], None] | None = None


def run_sweep(
    space: SearchSpace,
    *,
    root: Path,
    listeners: Sequence[SweepListener] = (),
    ray_address: str | None = None,
    study_storage: str | None = None,
    begin_from: Path | None = None,
    on_harvest: Callable[[HarvestProgress], None] | None = None,
    on_drain: Callable[[int], None] | None = None,
) -> SweepRecord:
    """Run the sweep of a search space, or go on with it where it stopped.

    Everything is kept under ``<root>/<space.name>/``; activations and trained toy models under ``<root>/.bank/``.
    The same search space, seed and concurrency of 1 give the same trials and, on a CPU, the same metrics.

    Args:
        space: What to search.
        root: Folder of sweeps.
        listeners: Told of the sweep as it runs.
        ray_address: Address of a Ray cluster; None starts Ray on this machine, unless this process is connected.
        study_storage: SQLAlchemy address of the Optuna database; None takes that of the search space.
        begin_from: Directory of an earlier sweep: what fits of its frontiers is run first.
        on_harvest: Told how far the activations are, before the first trial.
        on_drain: Told, once the sweep has been asked to stop, how many trials are still to finish.

    Returns:
        The record of the completed sweep; when every budget was spent before, nothing is started for it.

    Raises:
        UserInputError: The directory is of another search space; no reference point; no sweep to begin from.
        EnvironmentNotReady: Another driver runs this sweep, a trial asks for more than the cluster has, the disk is
            full, or the database is held by another program.
        KeyboardInterrupt: The sweep was interrupted, by a signal or by ``stop``; its state is saved and the same call
            goes on with it.
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
        storage = studies_home(directory, study_storage or space.search.study_storage)
        warm = warm_start(space, earlier, begin_from)
        write_space(space, directory)
        if earlier is not None and (finished := _finished(space, earlier, directory, listeners, storage)) is not None:
            return finished
        subject = build_subject(space.subject, root.resolve() / BANK_FOLDER)
        write_truth(directory, subject)
        with connected(space.resources, ray_address) as cluster:
            require_resources(space.resources, cluster)
            require_shared(directory)
            bank = build_bank(subject, space.activations, root.resolve() / BANK_FOLDER, on_progress=on_harvest)
            baseline = subject.baseline(bank.evaluation())
            context = packed(TrialContext(bank, subject, baseline, space.training, directory), space, cluster)
            record = _opening_record(space, earlier, subject, bank, baseline, cluster, warm, context.packing)
            return _run(space, record, context, listeners, storage, Stopping(interrupts, on_drain))


def _finished(
    space: SearchSpace, earlier: SweepRecord, directory: Path, listeners: Sequence[SweepListener], storage: StudiesHome
) -> SweepRecord | None:
    """The record of a sweep with no trial left to run, told to the listeners; None when there is something to do.

    Neither Ray nor the subject is started for it. The record takes over what may change: description, tracking, ...
    """
    if earlier.reference is None:
        return None
    studies = open_studies(space, storage.address, earlier.warm_start, sweep_id=storage.sweep_id)
    giving_up = GivingUp(space.search.max_failures, studies)
    ledger = Ledger(directory, [LiveFile(directory), giving_up, *listeners])
    try:
        ledger.retell(giving_up)
        reconcile(studies, ledger, objectives_of(space, earlier.reference))
        if not studies.exhausted():
            return None
        spent = studies.spent()
    finally:
        studies.close()
    changes = {
        "description": space.description,
        "space": space.model_dump(mode="json"),
        "architectures": giving_up.marked(architecture_plans(space, spent)),
        "early_stopping": stopping_summary(space, ledger.ended.values()),
        "status": "completed",
        "ended_at": earlier.ended_at or _now(),
    }
    record = earlier.model_copy(update=changes)
    if record != earlier:
        write_record(directory / SWEEP_FILE, record)
    try:
        ledger.open(record)
    finally:
        ledger.close(record)
    return record


def _run(
    space: SearchSpace,
    record: SweepRecord,
    context: TrialContext,
    listeners: Sequence[SweepListener],
    storage: StudiesHome,
    stopping: Stopping,
) -> SweepRecord:
    """Search until every budget is spent; the record on disk says how it ended in every case."""
    assert record.reference is not None
    directory = context.directory
    objectives = objectives_of(space, record.reference)
    write_record(directory / SWEEP_FILE, record)
    slots = record.resources["max_concurrent"]
    studies = open_studies(space, storage.address, record.warm_start, slots=slots, sweep_id=storage.sweep_id)
    giving_up = GivingUp(space.search.max_failures, studies)
    meter = UtilisationMeter.of(record.resources, context.packing)
    ledger = Ledger(directory, [LiveFile(directory), giving_up, meter, *listeners])
    status: SweepStatus = "failed"
    try:
        reconcile(studies, ledger, objectives)
        ledger.open(record)
        scheduler = ParetoHalving(EarlyStopping.of(space, objectives, ledger))
        status = _search(studies, objectives, ledger, context, record, scheduler, stopping)
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        plans = record.architectures if status != "completed" else architecture_plans(space, studies.spent())
        studies.close()
        changes = {
            "architectures": giving_up.marked(plans),
            "early_stopping": stopping_summary(space, ledger.ended.values()),
            "utilisation": meter.summary(),
        }
        record = record.model_copy(update={"status": status, "ended_at": _now(), **changes})
        try:
            write_record(directory / SWEEP_FILE, record)
        finally:
            ledger.close(record)
    if status == "interrupted":
        raise KeyboardInterrupt
    return record


def _search(
    studies: Studies,
    objectives: Objectives,
    ledger: Ledger,
    context: TrialContext,
    record: SweepRecord,
    scheduler: ParetoHalving,
    stopping: Stopping,
) -> SweepStatus:
    """Run a new Tuner for what is left of the budgets: the studies and the records are the only state."""
    if studies.exhausted():
        return "completed"
    callback = LedgerCallback(ledger)
    searcher = StudySearcher(studies, objectives, ledger, callback.error_of)
    run_session(
        run_trial,
        context,
        searcher,
        callback,
        name=f"session-{record.sessions}",
        max_concurrent=record.resources["max_concurrent"],
        scheduler=scheduler,
        interrupts=stopping.interrupts,
        on_drain=stopping.on_drain,
    )
    return "completed" if studies.exhausted() else "interrupted"


def _opening_record(
    space: SearchSpace,
    earlier: SweepRecord | None,
    subject: Subject,
    bank: ActivationBank,
    baseline: Baseline,
    cluster: Cluster,
    warm: WarmStart | None,
    packing: Packing,
) -> SweepRecord:
    """The record as it stands before the first trial of this session."""
    commit, dirty = source_commit()
    budgets = trial_budgets(space)
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
        reference=reference_point(space, baseline),
        loss_name=subject.loss_name,
        loss_unit=subject.loss_unit,
        subject=subject.describe(),
        bank=bank.manifest.model_dump(mode="json", exclude={"files", "shard_rows", "mean_D"}),
        architectures=architecture_plans(space),
        warm_start=warm,
        resources={
            **space.resources.model_dump(),
            "max_concurrent": cluster.concurrency(space.resources, sum(budgets.values()), packing),
            "shares": packing.describe(),
            "nodes": cluster.nodes,
            "cluster": {kind: cluster.resources.get(kind, 0.0) for kind in ("CPU", "GPU")},
        },
        ray_logs=cluster.logs,
        sessions=1 if earlier is None else earlier.sessions + 1,
        started_at=_now() if earlier is None else earlier.started_at,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
