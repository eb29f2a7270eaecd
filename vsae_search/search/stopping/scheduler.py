"""Early stopping in Ray Tune: a scheduler of our own around :mod:`.halving`.

Tune neither saves nor restores a scheduler, so the rungs are rebuilt from what trials left on disk. A decision is not
stored anywhere: it becomes a fact when the trial's record is written as ``stopped``. If the driver dies in between, the
trial is still unfinished; it goes on from its checkpoint, reports the same rung again and is decided about again.

Some of the trials that ought to stop are finished all the same (``search.audit_fraction``). How many of them end on the
frontier of their architecture says how often a stop is a mistake.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vsae_search.errors import CorruptFile
from vsae_search.search.assignment import Assignment
from vsae_search.search.fifo import FirstLive
from vsae_search.search.objectives import Objectives, usable
from vsae_search.search.propose.searcher import parse_record
from vsae_search.search.records import TRIALS_FOLDER, TrialRecord, read_record
from vsae_search.search.seeds import derive_seed
from vsae_search.search.stopping.halving import Halving, Rule, front_ranks, stopped_early
from vsae_search.search.trial import PARTIAL_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vsae_search.search.store.ledger import Ledger
    from vsae_search.space import SearchSpace

_SEEDS = 2**31


def is_audited(seed: int, uid: str, fraction: float) -> bool:
    """Whether a trial is finished even if it ought to stop: a fixed draw for every trial of a sweep.

    Args:
        seed: Seed of the sweep.
        uid: The trial.
        fraction: Share of trials for which this holds.
    """
    return derive_seed(seed, "audit", uid) < fraction * _SEEDS


class EarlyStopping:
    """What a sweep does with a trial that reports a rung.

    Args:
        halving: Decides.
        ledger: Told which trials are finished for the audit, so that their records say so.
        seed: Seed of the sweep.
        audit_fraction: Share of the trials to be stopped that are finished nevertheless.
        architectures: Those whose trials may be stopped.
    """

    def __init__(
        self, halving: Halving, ledger: Ledger, *, seed: int, audit_fraction: float, architectures: Iterable[str]
    ) -> None:
        self.halving, self.ledger, self.seed, self.audit_fraction = halving, ledger, seed, audit_fraction
        self.architectures = frozenset(architectures)

    @classmethod
    def of(cls, space: SearchSpace, objectives: Objectives, ledger: Ledger) -> EarlyStopping | None:
        """The early stopping of a sweep, with every result on disk at its rung; None when it is off."""
        architectures = stopped_early(space)
        if not architectures:
            return None
        halving = Halving(Rule.of(space), objectives)
        halving.remember(unfinished_trials(ledger.directory))
        halving.remember(ledger.ended.values())
        audit_fraction = space.search.audit_fraction
        return cls(halving, ledger, seed=space.seed, audit_fraction=audit_fraction, architectures=architectures)

    def stops(self, record: TrialRecord) -> bool:
        """Whether the trial is to be stopped at the last rung of this report."""
        if record.architecture not in self.architectures or not self.halving.stops(record):
            return False
        if not is_audited(self.seed, record.uid, self.audit_fraction):
            return True
        self.ledger.audit(record.uid, record.rungs[-1].index)
        return False


class ParetoHalving(FirstLive):
    """Tune's scheduler: trials run in the order in which they come, and stop when :class:`EarlyStopping` says so.

    Args:
        stopping: Decides; None lets every trial run to its end.
    """

    def __init__(self, stopping: EarlyStopping | None) -> None:
        super().__init__()
        self._stopping = stopping

    @property
    def metric(self) -> None:
        """None: two metrics decide, and they are inside the record."""
        return

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept whatever Tune was given; nothing of it is used."""
        del metric, mode, spec
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide about a trial that reports a rung before its last; a final report is never stopped."""
        del tune_controller
        record = parse_record(result, Assignment(**trial.config))
        unfinished = record is not None and record.state == "stopped"
        stops = self._stopping is not None and record is not None and unfinished and self._stopping.stops(record)
        return str(self.STOP if stops else self.CONTINUE)

    def debug_string(self) -> str:
        """One line for Tune's own displays."""
        return "Pareto halving" if self._stopping is not None else "first in, first out"

    def __getstate__(self) -> dict[str, Any]:
        """Only the class goes into Tune's pickles."""
        return {**super().__getstate__(), "_stopping": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ParetoHalving:
        """Tune copies its configuration; the copy has to decide with the same results."""
        return self


def unfinished_trials(directory: Path) -> Iterable[TrialRecord]:
    """What trials that were running when the driver died had reached; one that cannot be read is left out."""
    for file in sorted((directory / TRIALS_FOLDER).glob(f"*/{PARTIAL_FILE}")):
        try:
            yield read_record(file, TrialRecord)
        except (CorruptFile, OSError):
            continue


def stopping_summary(space: SearchSpace, records: Iterable[TrialRecord]) -> dict[str, Any]:
    """Whether early stopping is on, for which architectures, and :func:`audit_summary` when it is."""
    architectures = stopped_early(space)
    if not architectures:
        return {"on": False}
    return {"on": True, "architectures": list(architectures), **audit_summary(records, space.training.rungs)}


def audit_summary(records: Iterable[TrialRecord], rungs: tuple[float, ...]) -> dict[str, Any]:
    """What early stopping did, from the records alone.

    Args:
        records: Every trial of the sweep.
        rungs: Fractions of the training at its rungs.

    Returns:
        ``stopped``: trials stopped; ``audited``: trials that ought to have been stopped and were finished;
        ``false_stops``: how many of these ended on the frontier of their architecture; ``false_stop_rate``: their
        share, None without an audited trial; ``training_saved``: training that stopped trials did not need, as a
        part of what all trials would have needed; ``stopped_at``: trials stopped by fraction of the training.
    """
    records = list(records)
    stopped = [record for record in records if record.state == "stopped" and record.rungs]
    audited = [record for record in records if record.audited_rung is not None and record.state == "completed"]
    frontier = {uid for name in {r.architecture for r in records} for uid in _frontier(records, name)}
    false_stops = sum(record.uid in frontier for record in audited)
    saved = sum(1.0 - record.rungs[-1].fraction for record in stopped)
    by_rung = Counter(record.rungs[-1].index for record in stopped)
    return {
        "stopped": len(stopped),
        "audited": len(audited),
        "false_stops": false_stops,
        "false_stop_rate": false_stops / len(audited) if audited else None,
        "training_saved": saved / len(records) if records else 0.0,
        "stopped_at": {f"{rungs[index]:g}": by_rung[index] for index in sorted(by_rung)},
    }


def _frontier(records: list[TrialRecord], architecture: str) -> list[str]:
    """Completed trials of an architecture that no other one dominates in L0 and delta-CE."""
    done = [r for r in records if r.architecture == architecture and r.state == "completed" and usable(r.metrics)]
    ranks = front_ranks([(r.metrics["l0"], r.metrics["delta_ce"]) for r in done])
    return [record.uid for record, rank in zip(done, ranks, strict=True) if rank == 0]
