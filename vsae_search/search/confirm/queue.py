"""Handing replicates to Ray Tune, each exactly once. The records on disk are the only state that matters."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from vsae_search.search.faults import LostNodes
from vsae_search.search.propose.searcher import given_up, judge, parse_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vsae_search.search.assignment import Assignment
    from vsae_search.search.records import TrialRecord
    from vsae_search.search.store.ledger import Ledger


class ReplicateSearcher(Searcher):  # type: ignore[misc] # Ray ships no types
    """Proposes what is on a list, in its order, and writes down how it ended.

    A replicate that the infrastructure loses goes to the front of the list, until its attempts are used up; it is then
    recorded as failed. One that diverges is recorded as such: with that seed it would always do so.

    Args:
        assignments: What is to be trained.
        ledger: Where records go.
        max_retries: How often a replicate is repeated after a failure of the infrastructure.
        error_of: Text of the error with which Tune ended a trial, by Tune's trial id.
    """

    def __init__(
        self,
        assignments: Iterable[Assignment],
        ledger: Ledger,
        *,
        max_retries: int,
        error_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.ledger, self.max_retries, self.error_of = ledger, max_retries, error_of
        self._waiting = deque(assignments)
        self._assigned: dict[str, Assignment] = {}
        self._seen: dict[str, Mapping[str, Any]] = {}
        self._lost_nodes = LostNodes()

    @property
    def exhausted(self) -> bool:
        """Whether everything on the list has ended."""
        return not self._waiting and not self._assigned

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next replicate; ``FINISHED`` when there is none left, None while a running one may come back."""
        if not self._waiting:
            finished: str = self.FINISHED
            return None if self._assigned else finished
        self._assigned[trial_id] = assignment = self._waiting.popleft()
        return asdict(assignment)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Remember the last report: when the worker is lost, it says how far the replicate was."""
        self._seen[trial_id] = result

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a replicate, or have it repeated; calling this again changes nothing."""
        del error  # after a final report nothing is lost, even if the worker died while cleaning up
        assignment = self._assigned.pop(trial_id, None)
        result = result or self._seen.get(trial_id)
        self._seen.pop(trial_id, None)
        if assignment is None:
            return
        record = parse_record(result, assignment)
        # nothing stops a replicate early: one whose last report is of a rung was lost on its way
        if record is not None and record.state in ("completed", "diverged"):
            self._end(judge(record))
            return
        error_text = self.error_of(trial_id)
        if self._lost_nodes.excuse(assignment.uid, error_text):
            self._waiting.appendleft(assignment)
        elif assignment.attempt < self.max_retries:
            self._waiting.appendleft(replace(assignment, attempt=assignment.attempt + 1))
        else:
            self._end(given_up(assignment, record, error_text))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its configuration for a restore that is never done."""
        return {}

    def _end(self, record: TrialRecord) -> None:
        self.ledger.announce(self.ledger.end(record))
