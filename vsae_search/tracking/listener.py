"""The listener that keeps the MLflow record of a sweep."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from vsae_search.tracking import store as stores
from vsae_search.tracking.delivery import Delivery
from vsae_search.tracking.flusher import Flusher
from vsae_search.tracking.index import TRACKING_FOLDER, read_run_index
from vsae_search.tracking.spool import Event, EventKind, Spool
from vsae_search.tracking.status import TrackingStatus
from vsae_search.tracking.uris import (
    ARTIFACTS_FOLDER,
    artifact_place,
    default_uri,
    mask_nested,
    mask_secrets,
    tracking_uri,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.search.records import RungRecord, SweepRecord, TrialRecord
    from vsae_search.space import TrackingSpec

FLUSH_PERIOD_S = 2.0
CLOSE_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class MlflowListener:
    """Follows a sweep and records it in MLflow: a run for the sweep, a child run for every trial.

    Lives in the driver. Every call appends to a spool under ``<sweep>/tracking/`` and returns; a thread of its own
    talks to MLflow, so neither a slow nor a dead server is felt by the trials. What could not be delivered is
    delivered when the server is back, or when the sweep is started again.

    Args:
        directory: The sweep directory. It is not touched before :meth:`on_sweep_start`.
        spec: Address, experiment, and whether weights are kept.
        flush_period_s: Seconds between deliveries.
        store: The folder whose database is used when no address is given; None for ``directory``.

    Raises:
        UserInputError: the tracking address is not allowed.
    """

    def __init__(
        self,
        directory: Path,
        spec: TrackingSpec,
        *,
        flush_period_s: float = FLUSH_PERIOD_S,
        store: Path | None = None,
    ) -> None:
        self.uri = tracking_uri(spec) or default_uri(store or directory)
        self._artifacts = artifact_place(spec)
        self._directory, self._store = directory, store or directory
        self._spec = spec
        self._period_s = flush_period_s
        self._spool: Spool | None = None
        self._flusher: Flusher | None = None
        self._delivery: Delivery | None = None
        self._spool_error: str | None = None
        self._open: set[str] = set()
        self._ended: dict[str, str] = {}
        stores.load_mlflow()

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Open the spool and start delivering, beginning with what an earlier session left."""
        if not self._open_spool():
            return
        self._append_sweep("sweep_start", record)
        self._start(record.name)

    def log_report(self, sweep: str, files: Sequence[Path]) -> None:
        """Record the finished report of a sweep that has been recorded; it takes the place of an earlier one.

        For a listener of its own: the report is written when the sweep has ended and its runs are known.

        Args:
            sweep: Name of the sweep.
            files: Files of the report; those that lie there when MLflow can be reached are delivered.
        """
        if self._open_spool():
            self._append("report", "", {"files": [str(file.resolve()) for file in files]})
            self._start(sweep)

    def _open_spool(self) -> bool:
        try:
            self._spool = Spool(self._directory / TRACKING_FOLDER)
        except OSError as error:
            self._spool_failed(error)
            return False
        self._recall(self._spool)
        return True

    def _start(self, sweep: str) -> None:
        """Start delivering; what is in the spool by now goes first."""
        assert self._spool is not None, "the spool is open"
        connect = partial(
            stores.RunStore,
            self.uri,
            experiment=self._spec.experiment or sweep,
            sweep_id=self._spool.id,
            artifacts=self._artifacts or self._store / ARTIFACTS_FOLDER,
        )
        self._delivery = Delivery(connect, self._directory, sweep, save_weights=self._spec.save_weights)
        self._flusher = Flusher(self._spool, self._delivery, self._period_s)
        self._flusher.start()

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Record that a trial runs."""
        self._open.add(uid)
        self._append("trial_start", uid, {"architecture": architecture, "params": params})

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Record a trial's metrics at a rung."""
        self._append("rung", uid, rung.model_dump(mode="json"))

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Record how a trial ended; a trial that an earlier session recorded is not recorded again."""
        self._open.discard(trial.uid)
        data = mask_nested(trial.model_dump(mode="json"))
        digest = _digest(data)
        if self._ended.get(trial.uid) != digest:
            self._ended[trial.uid] = digest
            self._append("trial_end", trial.uid, data)

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Record how the sweep ended; trials that were running are marked as interrupted."""
        self._append_sweep("sweep_end", record)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> TrackingStatus:
        """Deliver what is left, for at most ``timeout_s`` seconds, and say what could not be; may be called twice."""
        if self._flusher is not None and self._spool is not None:
            if self._flusher.close(timeout_s):
                self._spool.close()
            else:
                self._spool.sync()
            if self.status.pending:
                logger.warning(
                    "%d events have not reached MLflow at %s; they are kept in %s and delivered when the sweep is "
                    "started again",
                    self.status.pending,
                    mask_secrets(self.uri),
                    self._spool.path,
                )
        return self.status

    @property
    def status(self) -> TrackingStatus:
        """What has been delivered, what waits, and why."""
        refused = self._delivery.refused_artifacts if self._delivery is not None else 0
        flusher, spool = self._flusher, self._spool
        return TrackingStatus(
            uri=mask_secrets(self.uri),
            delivered=spool.delivered if spool else 0,
            pending=spool.pending if spool else 0,
            rejected=(flusher.rejected if flusher else 0) + refused,
            last_error=self._spool_error or (flusher.last_error if flusher else None),
        )

    def run_url(self, uid: str) -> str | None:
        """Link to a trial's run on the tracking server; None without a server, or before the run exists."""
        index = read_run_index(self._directory)
        return index.url(uid) if index is not None else None

    @property
    def tracking_url(self) -> str | None:
        """Link to the run of the sweep on the tracking server; None without a server, or before the run exists."""
        index = read_run_index(self._directory)
        return index.tracking_url if index is not None else None

    def _append_sweep(self, kind: EventKind, record: SweepRecord) -> None:
        self._append(kind, "", {"record": record.model_dump(mode="json"), "open": sorted(self._open)})
        self._open.clear()

    def _append(self, kind: EventKind, uid: str, data: dict[str, Any]) -> None:
        if self._spool is None:
            return
        try:
            self._spool.append(Event(kind, uid, data=data))
        except OSError as error:  # a full disk must not end the sweep; the trial records make up for it at next start
            self._spool_failed(error)

    def _spool_failed(self, error: OSError) -> None:
        if self._spool_error is None:
            logger.warning("the MLflow record cannot be spooled, the sweep goes on without it: %s", error)
        self._spool_error = f"{type(error).__name__}: {error}"

    def _recall(self, spool: Spool) -> None:
        """Learn from the spool which trials an earlier session left running, and which it recorded as ended."""
        for pending in spool.scan():
            event = pending.event
            match event.kind:
                case "trial_start":
                    self._open.add(event.uid)
                case "trial_end":
                    self._open.discard(event.uid)
                    self._ended[event.uid] = _digest(event.data)
                case "sweep_end":
                    self._open.clear()
                case _:
                    pass


def _digest(data: dict[str, Any]) -> str:
    """Digest of JSON-able content: equal for a record and for its copy read back from the spool."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
