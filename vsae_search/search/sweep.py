"""``run_sweep``: from a search space to one record per trial, through any number of interruptions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ray import tune

from vsae_search.activations import build_bank
from vsae_search.errors import EnvironmentNotReady
from vsae_search.search.bridge import LedgerCallback
from vsae_search.search.budgets import startup_trials, trial_budgets
from vsae_search.search.cluster import connected
from vsae_search.search.directory import earlier_session, prepare_directory, write_space
from vsae_search.search.environment import source_commit, versions
from vsae_search.search.ledger import Ledger
from vsae_search.search.lock import driver_lock
from vsae_search.search.objectives import Objectives
from vsae_search.search.proposals import Proposals
from vsae_search.search.records import BANK_FOLDER, SWEEP_FILE, ArchitecturePlan, SweepRecord, write_record
from vsae_search.search.reference import reference_point
from vsae_search.search.samplers import spread_trials
from vsae_search.search.searcher import StudySearcher, reconcile
from vsae_search.search.seeds import derive_seed
from vsae_search.search.signals import own_interrupts, terminable
from vsae_search.search.studies import Plan, Studies
from vsae_search.search.trainable import run_trial
from vsae_search.search.trial import TrialContext
from vsae_search.subjects import build_subject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.activations import ActivationBank
    from vsae_search.search.cluster import Cluster
    from vsae_search.search.listener import SweepListener
    from vsae_search.search.records import SweepStatus
    from vsae_search.space import SearchSpace
    from vsae_search.subjects import Baseline, Subject

STUDIES_FILE = "optuna.db"
RAY_FOLDER = "ray"


def run_sweep(
    space: SearchSpace,
    *,
    root: Path,
    listeners: Sequence[SweepListener] = (),
    ray_address: str | None = None,
    study_storage: str | None = None,
) -> SweepRecord:
    """Run the sweep of a search space, or go on with it where it stopped.

    Everything is kept under ``<root>/<space.name>/``; activations and trained toy models under ``<root>/.bank/``.
    The same search space, seed and concurrency of 1 give the same trials and, on a CPU, the same metrics.

    Args:
        space: What to search.
        root: Folder of sweeps.
        listeners: Told of the sweep as it runs.
        ray_address: Address of a Ray cluster; None starts Ray on this machine, unless this process is connected.
        study_storage: SQLAlchemy address of the Optuna database; None keeps it in the sweep directory.

    Returns:
        The record of the completed sweep; when every budget was spent before, nothing is started for it.

    Raises:
        UserInputError: The directory belongs to another search space, or the subject gives no reference point.
        EnvironmentNotReady: Another driver runs this sweep, or a trial asks for more than the cluster has.
        KeyboardInterrupt: The sweep was interrupted; its state is saved and the same call goes on with it.
        Terminated: The same, by SIGTERM.
    """
    directory = prepare_directory(space, root)
    storage = study_storage or f"sqlite:///{directory / STUDIES_FILE}"
    with terminable(), driver_lock(directory):
        earlier = earlier_session(space, directory)
        write_space(space, directory)
        if earlier is not None and (finished := _finished(space, earlier, directory, listeners, storage)) is not None:
            return finished
        subject = build_subject(space.subject, root.resolve() / BANK_FOLDER)
        with connected(space.resources, ray_address) as cluster:
            _require_resources(space, cluster)
            bank = build_bank(subject, space.activations, root.resolve() / BANK_FOLDER)
            baseline = subject.baseline(bank.evaluation())
            record = _opening_record(space, earlier, subject, bank, baseline, cluster)
            context = TrialContext(
                bank=bank,
                subject=subject,
                baseline=baseline,
                training=space.training,
                directory=directory,
                cpus=space.resources.cpus_per_trial,
                gpus=space.resources.gpus_per_trial,
            )
            return _run(space, record, context, listeners, storage)


def _finished(
    space: SearchSpace, earlier: SweepRecord, directory: Path, listeners: Sequence[SweepListener], storage: str
) -> SweepRecord | None:
    """The record of a sweep with no trial left to run, told to the listeners; None when there is something to do.

    Neither Ray nor the subject is started for it. The record takes over what may change: description, tracking, ...
    """
    if earlier.reference is None:
        return None
    ledger = Ledger(directory, listeners)
    studies = _studies(space, storage)
    try:
        reconcile(studies, ledger, Objectives(earlier.reference.l0, earlier.reference.delta_ce))
        if not studies.exhausted():
            return None
    finally:
        studies.close()
    changes = {
        "description": space.description,
        "space": space.model_dump(mode="json"),
        "architectures": _architecture_plans(space),
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
    space: SearchSpace, record: SweepRecord, context: TrialContext, listeners: Sequence[SweepListener], storage: str
) -> SweepRecord:
    """Search until every budget is spent; the record on disk says how it ended in every case."""
    assert record.reference is not None
    directory = context.directory
    objectives = Objectives(record.reference.l0, record.reference.delta_ce)
    ledger = Ledger(directory, listeners)
    write_record(directory / SWEEP_FILE, record)
    studies = _studies(space, storage)
    status: SweepStatus = "failed"
    try:
        reconcile(studies, ledger, objectives)
        ledger.open(record)
        status = _search(studies, objectives, ledger, context, record)
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        studies.close()
        record = record.model_copy(update={"status": status, "ended_at": _now()})
        write_record(directory / SWEEP_FILE, record)
        ledger.close(record)
    if status == "interrupted":
        raise KeyboardInterrupt
    return record


def _search(
    studies: Studies, objectives: Objectives, ledger: Ledger, context: TrialContext, record: SweepRecord
) -> SweepStatus:
    """Run a new Tuner for what is left of the budgets: the studies and the records are the only state."""
    if studies.exhausted():
        return "completed"
    callback = LedgerCallback(ledger)
    searcher = StudySearcher(studies, objectives, ledger, callback.error_of)
    resources = {"cpu": context.cpus, "gpu": context.gpus}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, context=context), resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=record.resources["max_concurrent"],
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"session-{record.sessions}",
            storage_path=str(context.directory / RAY_FOLDER),
            verbose=0,
            callbacks=[callback],
        ),
    )
    with own_interrupts():
        tuner.fit()
    # the first Ctrl-C ends Tune's loop without an exception
    return "completed" if studies.exhausted() else "interrupted"


def trial_name(trial: Any) -> str:
    """Name of a trial in Tune: its uid, and which attempt it is."""
    return f"{trial.config['uid']}-{trial.config['attempt']}-{trial.trial_id}"


def _studies(space: SearchSpace, storage: str) -> Studies:
    plans: dict[str, Plan] = {}
    for name, budget in trial_budgets(space).items():
        proposals = Proposals.of(space.ranges(name), derive_seed(space.seed, "spread", name))
        startup = startup_trials(space.search.startup_trials, len(proposals.dimensions))
        plans[name] = Plan(proposals, budget, startup)
    return Studies(
        # the digest keeps two sweeps of one name apart in a database that they share
        f"{space.name}/{space.digest()[:12]}",
        space.seed,
        plans,
        sampler=space.search.sampler,
        max_retries=space.search.max_retries,
        storage=storage,
    )


def _opening_record(
    space: SearchSpace,
    earlier: SweepRecord | None,
    subject: Subject,
    bank: ActivationBank,
    baseline: Baseline,
    cluster: Cluster,
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
        architectures=_architecture_plans(space),
        resources={
            **space.resources.model_dump(),
            "max_concurrent": cluster.concurrency(space.resources, sum(budgets.values())),
            "nodes": cluster.nodes,
            "cluster": {kind: cluster.resources.get(kind, 0.0) for kind in ("CPU", "GPU")},
        },
        ray_logs=cluster.logs,
        sessions=1 if earlier is None else earlier.sessions + 1,
        started_at=_now() if earlier is None else earlier.started_at,
    )


def _architecture_plans(space: SearchSpace) -> dict[str, ArchitecturePlan]:
    return {name: _architecture_plan(space, name, budget) for name, budget in trial_budgets(space).items()}


def _architecture_plan(space: SearchSpace, name: str, budget: int) -> ArchitecturePlan:
    searched = len(Proposals.of(space.ranges(name), 0).dimensions)
    startup = startup_trials(space.search.startup_trials, searched)
    return ArchitecturePlan(trials=budget, startup=spread_trials(space.search.sampler, startup, budget))


def _require_resources(space: SearchSpace, cluster: Cluster) -> None:
    missing = cluster.missing(space.resources)
    if missing is not None:
        raise EnvironmentNotReady(
            f"a trial asks for {missing}", "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
