"""``run_confirm``: a sweep's best configurations, trained again with new seeds and measured on rows it never saw.

What differs between two replicates of a configuration: the initial weights, whatever is drawn at random in training,
and the order in which the stored shards are read (the rows of one shard keep their order). What they share: the
subject (the same toy model with the same directions, or the same language model), the stored training and calibration
rows with their scale, the hyper-parameters, the training budget, and the held-out rows. Replicates of one number have
one seed, so all architectures read the same batches in them.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vsae_search.activations import build_bank, hold_out
from vsae_search.errors import UserInputError
from vsae_search.search.bridge import LedgerCallback
from vsae_search.search.confirm.plan import ConfirmPlan, ConfirmRequest, plan_confirm
from vsae_search.search.confirm.queue import ReplicateSearcher
from vsae_search.search.confirm.records import CONFIRM_FILE, CONFIRM_FOLDER, ConfirmRecord
from vsae_search.search.faults import told_plainly
from vsae_search.search.records import BANK_FOLDER, TRIALS_FOLDER, ArchitecturePlan, write_record
from vsae_search.search.resources.cluster import connected, require_resources
from vsae_search.search.resources.probe import packed
from vsae_search.search.resources.reach import require_shared
from vsae_search.search.session import run_session
from vsae_search.search.signals import terminable
from vsae_search.search.store.environment import source_commit, versions
from vsae_search.search.store.ledger import Ledger
from vsae_search.search.store.lock import driver_lock
from vsae_search.search.store.requests import stop_requests
from vsae_search.search.trainable import run_trial
from vsae_search.search.trial import TrialContext
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from vsae_search.activations import ActivationBank, HarvestProgress
    from vsae_search.search.listener import SweepListener
    from vsae_search.search.records import SweepStatus
    from vsae_search.search.resources.cluster import Cluster
    from vsae_search.search.resources.packing import Packing
    from vsae_search.search.signals import Interrupts
    from vsae_search.subjects import Subject


def run_confirm(
    directory: Path,
    request: ConfirmRequest,
    *,
    listeners: Sequence[SweepListener] = (),
    ray_address: str | None = None,
    on_harvest: Callable[[HarvestProgress], None] | None = None,
    on_drain: Callable[[int], None] | None = None,
) -> ConfirmRecord:
    """Confirm a sweep, or go on with its confirmation.

    Every replicate is trained once: what earlier calls trained is kept, more seeds and configurations that have come
    to the frontier are added, and what the infrastructure lost is tried again.

    Args:
        directory: The sweep directory.
        request: What is asked for.
        listeners: Told of the trainings as they run.
        ray_address: Address of a Ray cluster; None starts Ray on this machine, unless this process is connected.
        on_harvest: Told how far the activations are, before the first training.
        on_drain: Told, once the confirmation has been asked to stop, how many trainings are still to finish.

    Returns:
        The record of the confirmation; when everything was trained before, nothing is started for it.

    Raises:
        UserInputError: The request cannot be met by this sweep, or its subject has changed.
        EnvironmentNotReady: The sweep is running, or a training asks for more than the cluster has.
        KeyboardInterrupt: It was interrupted; what ended is kept and the same call goes on.
        Terminated: The same, by SIGTERM.
    """
    directory = directory.resolve()
    with (
        told_plainly(directory, "confirm"),
        terminable() as interrupts,
        driver_lock(directory, "confirm"),
        stop_requests(directory, interrupts),
    ):
        plan = plan_confirm(directory, request)
        ledger = _ledger(plan, listeners)
        if not plan.pending:
            return _nothing_left(plan, ledger)
        cache = directory.parent / BANK_FOLDER
        subject = build_subject(plan.space.subject, cache)
        with connected(plan.space.resources, ray_address) as cluster:
            require_resources(plan.space.resources, cluster)
            require_shared(directory)
            bank = build_bank(subject, plan.space.activations, cache, on_progress=on_harvest)
            held_out = hold_out(bank, subject, plan.space.activations.evaluation_tokens, on_progress=on_harvest)
            _require_same_rows(plan, bank, held_out)
            context = packed(_context(plan, subject, held_out), plan.space, cluster)
            record = _opening_record(plan, subject, held_out, cluster, context.packing)
            return _run(plan, record, context, ledger, interrupts, on_drain)


def _ledger(plan: ConfirmPlan, listeners: Sequence[SweepListener]) -> Ledger:
    """The book of the confirmation, without the replicates that are trained again."""
    home = plan.directory / CONFIRM_FOLDER
    home.mkdir(mode=0o700, exist_ok=True)
    (home / TRIALS_FOLDER).mkdir(exist_ok=True)
    ledger = Ledger(home, listeners)
    again = {assignment.uid for assignment in plan.pending}
    ledger.ended = {uid: record for uid, record in ledger.ended.items() if uid not in again}
    return ledger


def _nothing_left(plan: ConfirmPlan, ledger: Ledger) -> ConfirmRecord:
    """The record of a confirmation with nothing left to train, told to the listeners; neither Ray nor a subject."""
    assert plan.earlier is not None, "without an earlier confirmation everything is left to train"
    record = plan.earlier.model_copy(
        update={**_chosen(plan), "status": "completed", "ended_at": plan.earlier.ended_at or _now()}
    )
    if record != plan.earlier:
        write_record(ledger.directory / CONFIRM_FILE, record)
    try:
        ledger.open(record)
    finally:
        ledger.close(record)
    return record


def _run(
    plan: ConfirmPlan,
    record: ConfirmRecord,
    context: TrialContext,
    ledger: Ledger,
    interrupts: Interrupts,
    on_drain: Callable[[int], None] | None,
) -> ConfirmRecord:
    """Train what is pending; the record on disk says how it ended in every case."""
    write_record(ledger.directory / CONFIRM_FILE, record)
    callback = LedgerCallback(ledger)
    searcher = ReplicateSearcher(
        plan.pending, ledger, max_retries=plan.space.search.max_retries, error_of=callback.error_of
    )
    status: SweepStatus = "failed"
    try:
        ledger.open(record)
        run_session(
            run_trial,
            context,
            searcher,
            callback,
            name=f"session-{record.sessions}",
            max_concurrent=record.resources["max_concurrent"],
            interrupts=interrupts,
            on_drain=on_drain,
        )
        status = "completed" if searcher.exhausted else "interrupted"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        record = record.model_copy(update={"status": status, "ended_at": _now()})
        write_record(ledger.directory / CONFIRM_FILE, record)
        ledger.close(record)
    if status == "interrupted":
        raise KeyboardInterrupt
    return record


def _require_same_rows(plan: ConfirmPlan, bank: ActivationBank, held_out: ActivationBank) -> None:
    """Refuse to confirm on another subject, or on other rows than the replicates that are there.

    Raises:
        UserInputError: Says which.
    """
    before = plan.earlier.bank.get("evaluation_digest") if plan.earlier is not None else None
    if bank.manifest.evaluation_digest != plan.sweep.bank.get("evaluation_digest"):
        what = f"the activations of the sweep {plan.sweep.name} come out differently"
    elif before not in (None, held_out.manifest.evaluation_digest):
        what = f"the held-out rows of the sweep {plan.sweep.name} come out differently than for its earlier replicates"
    else:
        return
    raise UserInputError(
        f"{what}, so that its numbers and new ones cannot be compared",
        "use the versions of the libraries that sweep.json names, or run the sweep again under another name",
    )


def _context(plan: ConfirmPlan, subject: Subject, held_out: ActivationBank) -> TrialContext:
    return TrialContext(
        bank=held_out,
        subject=subject,
        baseline=subject.baseline(held_out.evaluation()),
        training=plan.space.training,
        directory=plan.directory / CONFIRM_FOLDER,
    )


def _opening_record(
    plan: ConfirmPlan, subject: Subject, held_out: ActivationBank, cluster: Cluster, packing: Packing
) -> ConfirmRecord:
    """The record as it stands before the first training of this session."""
    commit, dirty = source_commit()
    sweep, resources = plan.sweep, plan.space.resources
    return ConfirmRecord(
        name=f"{sweep.name}/{CONFIRM_FOLDER}",
        description=sweep.description,
        digest=sweep.digest,
        space=sweep.space,
        seed=sweep.seed,
        status="running",
        versions=versions(),
        git_commit=commit,
        git_dirty=dirty,
        loss_name=subject.loss_name,
        loss_unit=subject.loss_unit,
        subject=subject.describe(),
        bank=held_out.manifest.model_dump(mode="json", exclude={"files", "shard_rows", "mean_D"}),
        resources={
            **resources.model_dump(),
            "max_concurrent": cluster.concurrency(resources, len(plan.pending), packing),
            "shares": packing.describe(),
            "nodes": cluster.nodes,
            "cluster": {kind: cluster.resources.get(kind, 0.0) for kind in ("CPU", "GPU")},
        },
        ray_logs=cluster.logs,
        sessions=1 if plan.earlier is None else plan.earlier.sessions + 1,
        started_at=_now() if plan.earlier is None else plan.earlier.started_at,
        **_chosen(plan),
    )


def _chosen(plan: ConfirmPlan) -> dict[str, Any]:
    """The part of the record that a call may change."""
    return {
        "margin": plan.request.margin,
        "max_configurations": plan.request.max_configurations,
        "seeds": plan.seeds,
        "configurations": plan.configurations,
        "architectures": _trainings(plan),
    }


def _trainings(plan: ConfirmPlan) -> dict[str, ArchitecturePlan]:
    """Trainings of each architecture, those of earlier calls included."""
    pending = Counter(assignment.architecture for assignment in plan.pending)
    kept = Counter(replicate.architecture for replicate in plan.replicates)
    counts = {name: pending[name] + kept[name] for name in plan.sweep.architectures}
    return {name: ArchitecturePlan(trials=count, startup=0) for name, count in counts.items() if count}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
