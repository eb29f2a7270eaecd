"""Runs in MLflow: found by tag, written once.

Everything here may be repeated after a crash. A run is looked up by its tags before it is created, and of a run that
was found the values it already has are read first, so that a metric is never written twice for one (key, step).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsae_search.tracking.content import PARENT_TAG, SWEEP_ID_TAG, UID_TAG, Content, Point, RunStatus
from vsae_search.tracking.uris import sqlite_path, web_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

MAX_METRICS = 1000
MAX_PARAMS_AND_TAGS = 100

# Chosen so that a dead server is noticed within seconds; what the user has set stays as it is.
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "120",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def load_mlflow() -> None:
    """Import MLflow with short time limits and without telemetry.

    Called in the main thread: importing it beside another thread that imports could meet half-initialised modules.
    """
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401 - imported for its effect

    logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass
class RunState:
    """A run and what it is known to hold.

    Attributes:
        run_id: MLflow's name of the run.
        artifact_uri: Where its artifacts go.
        points: (key, step) of the metrics it has.
        params: Names of the parameters it has; MLflow refuses to change one.
        tags: The tags by which it is found.
        running: Whether its status is RUNNING.
    """

    run_id: str
    artifact_uri: str
    tags: dict[str, str]
    running: bool = True
    points: set[tuple[str, int]] = field(default_factory=set)
    params: set[str] = field(default_factory=set)


class RunStore:
    """The runs of one sweep in one tracking store.

    Args:
        uri: Checked tracking address.
        experiment: Name of the experiment; created when missing.
        sweep_id: Unique name of the sweep, by which its run is found again.
        artifacts: Where artifacts go when the store is a database: a folder, or an address; a server decides that
            itself unless it is given an address.
    """

    def __init__(self, uri: str, experiment: str, sweep_id: str, artifacts: Path | str) -> None:
        from mlflow.tracking import MlflowClient

        self.uri = uri
        self.sweep_id = sweep_id
        self._prepare_sqlite()
        self.client: MlflowClient = MlflowClient(tracking_uri=uri)
        self.experiment_id = self._experiment(experiment, _location(uri, artifacts))
        self._parent: RunState | None = None
        self._trials: dict[str, RunState] = {}

    def parent(self, name: str, start_ms: int | None = None) -> RunState:
        """The run of the sweep, created on first use."""
        if self._parent is None:
            tags = {SWEEP_ID_TAG: self.sweep_id}
            self._parent = self._find_or_create(tags, name, start_ms)
        return self._parent

    def trial(self, uid: str, sweep: str, start_ms: int) -> RunState:
        """The run of a trial, created on first use."""
        if uid not in self._trials:
            parent = self.parent(sweep, start_ms)
            self._trials[uid] = self._find_or_create({UID_TAG: uid, PARENT_TAG: parent.run_id}, uid, start_ms)
        return self._trials[uid]

    def write(self, run: RunState, content: Content) -> None:
        """Write what a run does not have yet, in as few requests as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        points = _new_points(content.points, run.points)
        params = {key: value for key, value in content.params.items() if key not in run.params}
        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
        named: list[Param | RunTag] = [Param(key, value) for key, value in params.items()]
        named += [RunTag(key, value) for key, value in content.tags.items()]
        for names in _chunks(named, MAX_PARAMS_AND_TAGS):
            some_params = [item for item in names if isinstance(item, Param)]
            some_tags = [item for item in names if isinstance(item, RunTag)]
            self.client.log_batch(run.run_id, params=some_params, tags=some_tags)
        for some in _chunks(metrics, MAX_METRICS):
            self.client.log_batch(run.run_id, metrics=some)
        run.params.update(params)
        run.points.update((point.key, point.step) for point in points)

    def set_status(self, run: RunState, status: RunStatus, end_ms: int | None = None) -> None:
        """Mark a run as running again, or as ended at a moment."""
        if status != "RUNNING":
            self.client.set_terminated(run.run_id, status=status, end_time=end_ms)
        elif not run.running:
            self.client.update_run(run.run_id, status=status)
        run.running = status == "RUNNING"

    def drop_twins(self, run: RunState) -> None:
        """Delete other runs with the same tags: a server that answers late makes a run for every retried request."""
        if web_address(self.uri):
            self._delete([twin for twin in self._search(run.tags) if twin.info.run_id != run.run_id])

    def forget(self, uid: str) -> None:
        """Drop what is known of a trial that has ended; it is looked up again should it come back."""
        self._trials.pop(uid, None)

    def close(self) -> None:
        """Let go of the database connections."""
        engine = getattr(getattr(self.client._tracking_client, "store", None), "engine", None)
        if engine is not None:
            engine.dispose()

    def _prepare_sqlite(self) -> None:
        # WAL: a reader (the user interface, the report) never makes the writer wait. The mode is kept in the file.
        path = sqlite_path(self.uri)
        if path:
            with closing(sqlite3.connect(path, timeout=20.0)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another sweep was faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RuntimeError(f"the MLflow experiment {name!r} has been deleted; restore it or name another")
        return str(found.experiment_id)

    def _find_or_create(self, tags: dict[str, str], name: str, start_ms: int | None) -> RunState:
        # of several (see drop_twins) the one that was written to is the one that was used
        found = sorted(self._search(tags), key=lambda run: -len(run.data.metrics) - len(run.data.params))
        if not found:
            run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=name)
            return RunState(run.info.run_id, run.info.artifact_uri, tags)
        run = found[0]
        self._delete(found[1:])
        running = run.info.status == "RUNNING"
        state = RunState(run.info.run_id, run.info.artifact_uri, tags, running, params=set(run.data.params))
        for key in run.data.metrics:
            history = self.client.get_metric_history(state.run_id, key)
            state.points.update((metric.key, metric.step) for metric in history)
        return state

    def _delete(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)

    def _search(self, tags: dict[str, str]) -> Sequence[Run]:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: Sequence[Run] = self.client.search_runs([self.experiment_id], query)
        return found


def _location(uri: str, artifacts: Path | str) -> str | None:
    """Where an experiment keeps artifacts; None lets a server decide."""
    if isinstance(artifacts, str):
        return artifacts
    return None if web_address(uri) else artifacts.resolve().as_uri()


def _new_points(points: Sequence[Point], known: set[tuple[str, int]]) -> list[Point]:
    """The first value of every (key, step) that the run does not have."""
    first: dict[tuple[str, int], Point] = {}
    for point in points:
        if (point.key, point.step) not in known:
            first.setdefault((point.key, point.step), point)
    return list(first.values())


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
