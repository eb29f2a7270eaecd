"""The link between Ray Tune and the studies: Tune asks for trials and says how they ended.

The order at the end of a trial is: record on disk, then the study, then the listeners. A crash between any two of them
is put right by :func:`reconcile` at the next start, without training anything again.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ray.tune.search import Searcher

from vsae_search.search.faults import LostNodes
from vsae_search.search.objectives import Objectives, usable
from vsae_search.search.propose.studies import Told
from vsae_search.search.records import TrialRecord
from vsae_search.space.secrets import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vsae_search.search.assignment import Assignment
    from vsae_search.search.propose.studies import Studies
    from vsae_search.search.store.ledger import Ledger

_LOST = "the worker ended without a report"


class StudySearcher(Searcher):  # type: ignore[misc] # Ray ships no types
    """Proposes trials from one study per architecture and keeps the explicit states of :mod:`.studies`.

    The studies and the records are the state; nothing of the searcher is saved or restored by Tune.

    Args:
        studies: Where trials come from.
        objectives: From metrics to what the studies minimise.
        ledger: Where records go.
        error_of: Text of the error with which Tune ended a trial, by Tune's trial id.
    """

    def __init__(
        self,
        studies: Studies,
        objectives: Objectives,
        ledger: Ledger,
        error_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.studies, self.objectives, self.ledger, self.error_of = studies, objectives, ledger, error_of
        self._assigned: dict[str, Assignment] = {}
        self._seen: dict[str, Mapping[str, Any]] = {}
        self._lost_nodes = LostNodes()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration.

        Returns:
            The configuration; ``FINISHED`` when every budget is spent; None while trials are running that may have to
            be repeated, or while a model is at work on the next one.
        """
        # while trials run, their results must not wait for a proposal; when none does, Tune would sleep for a second
        assignment = self.studies.ask(patient=not self._assigned)
        if assignment is None:
            finished: str = self.FINISHED
            return finished if self.studies.exhausted() else None
        self._assigned[trial_id] = assignment
        return asdict(assignment)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Remember the last report: when the worker is lost, it says how far the trial was."""
        self._seen[trial_id] = result

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Give the trial its final state, or have it repeated; calling this again changes nothing."""
        assignment = self._assigned.pop(trial_id, None)
        result = result or self._seen.pop(trial_id, None)
        self._seen.pop(trial_id, None)
        if assignment is None:
            return
        record = parse_record(result, assignment)
        if _lost(record, error):
            self._on_lost(assignment, record, self.error_of(trial_id))
            return
        assert record is not None
        record = judge(record)
        written = self.ledger.end(record)
        if self.studies.tell(assignment.uid, told_of(written, self.objectives)):
            self.ledger.announce(written)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies and the records are on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its configuration for a restore that is never done; a database connection cannot go with it."""
        return {}

    def _on_lost(self, assignment: Assignment, record: TrialRecord | None, error: str | None) -> None:
        """A failure of the infrastructure: repeat the trial, or give it up when its attempts are used up."""
        free = self._lost_nodes.excuse(assignment.uid, error)
        if free or self.studies.retries_left(assignment.uid):
            self.studies.fail(assignment.uid, free=free)
            return
        written = self.ledger.end(given_up(assignment, record, error))
        if self.studies.fail(assignment.uid):
            self.ledger.announce(written)


def parse_record(result: Mapping[str, Any] | None, assignment: Assignment) -> TrialRecord | None:
    """The record inside a report; None when there is none, or it is not of this trial."""
    try:
        record = TrialRecord.model_validate_json((result or {}).get("record", ""))
    except ValidationError:
        return None
    return record if record.uid == assignment.uid else None


def judge(record: TrialRecord) -> TrialRecord:
    """A trial whose objectives are missing or not finite has diverged, whatever it says of itself."""
    if record.state in ("completed", "stopped") and not usable(record.metrics):
        return record.model_copy(update={"state": "diverged", "error": "an objective is missing or not finite"})
    return record


def told_of(record: TrialRecord, objectives: Objectives) -> Told:
    """What a study is told of an ended trial."""
    if record.state == "diverged":
        # nothing is known of its L0, so it says nothing about the range either
        return Told(objectives.worst(), usable=False, outside=None if objectives.wanted is None else 0.0)
    values = objectives.values(record.metrics["l0"], record.metrics["delta_ce"])
    return Told(values, usable=record.state == "completed", outside=objectives.outside(record.metrics["l0"]))


def reconcile(studies: Studies, ledger: Ledger, objectives: Objectives) -> list[str]:
    """Bring studies and records together after the driver died.

    Returns:
        Trials that were running and start again under the same uid.
    """
    ended = {
        uid: None if record.state == "failed" else told_of(judge(record), objectives)
        for uid, record in ledger.ended.items()
    }
    return studies.reconcile(ended)


def _lost(record: TrialRecord | None, error: bool) -> bool:
    """Whether an attempt is lost. After a final report it is not, even if the worker died while cleaning up."""
    if record is None or record.state == "failed":
        return True
    return error and record.state == "stopped"


def given_up(assignment: Assignment, record: TrialRecord | None, error: str | None) -> TrialRecord:
    """The record of a trial that the infrastructure lost too often.

    Args:
        assignment: The trial.
        record: What it reported last.
        error: The error with which Tune ended it.
    """
    reason = (record.error if record is not None else None) or error or _LOST
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    if record is None:
        record = TrialRecord(**asdict(assignment), state="failed", started_at=now)
    return record.model_copy(update={"state": "failed", "error": mask_secrets(reason), "ended_at": now, "metrics": {}})
