"""From spooled events to MLflow runs; every step may be repeated."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vsae_search.search.records import trial_directory, write_text
from vsae_search.tracking.content import (
    STATE_TAG,
    SWEEP_STATUS,
    TRIAL_STATUS,
    Content,
    end_content,
    milliseconds,
    rung_content,
    sweep_content,
    trial_content,
)
from vsae_search.tracking.flusher import ConnectFailed, describe
from vsae_search.tracking.index import INDEX_FILE, TRACKING_FOLDER, RunIndex, read_run_index
from vsae_search.tracking.uris import mask_secrets, web_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vsae_search.tracking.spool import Event
    from vsae_search.tracking.store import RunState, RunStore

WEIGHT_FILES = ("sae.safetensors", "sae.json", "toy_model.safetensors")
SPACE_FILE = "space.yaml"
REPORT_FOLDER = "report"
_ARTIFACT_ATTEMPTS = 5  # over half a minute of growing pauses

logger = logging.getLogger(__name__)


class Delivery:
    """Writes the events of one sweep to its runs.

    Args:
        connect: Opens the tracking store.
        directory: The sweep directory, from which artifacts are read and in which the run index is kept.
        sweep: Name of the sweep.
        save_weights: Whether trained weights are kept as artifacts.
    """

    def __init__(self, connect: Callable[[], RunStore], directory: Path, sweep: str, *, save_weights: bool) -> None:
        self.directory = directory
        self.sweep = sweep
        self.save_weights = save_weights
        self._refused: set[str] = set()
        self._connect = connect
        self._store: RunStore | None = None
        self._artifact_failures: Counter[str] = Counter()
        self._waiting: dict[str, tuple[RunState, Content]] = {}
        self._index: RunIndex | None = None
        self._runs: dict[str, str] = {}

    @property
    def refused_artifacts(self) -> int:
        """How many uploads were given up."""
        return len(self._refused)

    @property
    def store(self) -> RunStore:
        """The tracking store, opened on first use and after every :meth:`disconnect`.

        Raises:
            ConnectFailed: it cannot be opened.
        """
        if self._store is None:
            try:
                self._store = self._connect()
            except Exception as error:
                raise ConnectFailed(describe(error)) from error
        return self._store

    def deliver(self, events: Sequence[Event]) -> None:
        """Write events in order; the values of one run go out together.

        Raises:
            Exception: whatever MLflow, the network or the database raise; everything may then be delivered again.
        """
        try:
            for event in events:
                self._deliver_one(event)
            self._flush()
        finally:
            self._waiting.clear()
        self._write_index()

    def disconnect(self) -> None:
        """Let go of the store and of everything that was known about it."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _write_index(self) -> None:
        sweep = self.store.parent(self.sweep).run_id
        if self._index is None:
            earlier = read_run_index(self.directory)
            if earlier is not None and earlier.sweep == sweep:
                self._runs = {**earlier.trials, **self._runs}
        index = RunIndex(
            address=web_address(self.store.uri),
            experiment_id=self.store.experiment_id,
            sweep=sweep,
            trials=dict(self._runs),
        )
        if index != self._index:
            write_text(self.directory / TRACKING_FOLDER / INDEX_FILE, index.model_dump_json(indent=2) + "\n")
            self._index = index

    def _deliver_one(self, event: Event) -> None:
        match event.kind:
            case "sweep_start" | "sweep_end":
                self._sweep(event)
            case "trial_start":
                run = self._run(event)
                self._wait(event.uid, run, trial_content(event.uid, event.data["architecture"], event.data["params"]))
                self.store.set_status(run, "RUNNING")
            case "rung":
                self._wait(event.uid, self._run(event), rung_content(event.data, event.time_ms))
            case "trial_end":
                self._trial_end(event)
            case "report":
                self._report(event)

    def _sweep(self, event: Event) -> None:
        record: dict[str, Any] = event.data["record"]
        run = self.store.parent(self.sweep, milliseconds(record["started_at"], event.time_ms))
        self._flush()
        self.store.write(run, sweep_content(record))
        self._documents(run, record)
        for uid in event.data["open"]:  # started, and given up by the session that ended
            state = self.store.trial(uid, self.sweep, event.time_ms)
            self.store.write(state, Content(tags={STATE_TAG: "interrupted"}))
            self.store.set_status(state, "KILLED", event.time_ms)
        if event.kind == "sweep_start":
            self.store.set_status(run, "RUNNING")
            return
        ended_ms = milliseconds(record["ended_at"], event.time_ms)
        self.store.set_status(run, SWEEP_STATUS.get(record["status"], "KILLED"), ended_ms)
        self.store.drop_twins(run)

    def _trial_end(self, event: Event) -> None:
        trial: dict[str, Any] = event.data
        run = self._run(event, milliseconds(trial["started_at"], event.time_ms))
        ended_ms = milliseconds(trial["ended_at"], event.time_ms)
        self._wait(event.uid, run, end_content(trial, ended_ms))
        self._flush(event.uid)
        if self.save_weights and trial["state"] == "completed":
            self._weights(event.uid, run)
        self.store.set_status(run, TRIAL_STATUS[trial["state"]], ended_ms)
        self.store.drop_twins(run)
        self.store.forget(event.uid)

    def _run(self, event: Event, start_ms: int | None = None) -> RunState:
        run = self.store.trial(event.uid, self.sweep, event.time_ms if start_ms is None else start_ms)
        self._runs[event.uid] = run.run_id
        return run

    def _wait(self, uid: str, run: RunState, content: Content) -> None:
        if uid in self._waiting:
            self._waiting[uid][1].add(content)
        else:
            self._waiting[uid] = (run, content)

    def _flush(self, uid: str | None = None) -> None:
        for name in list(self._waiting) if uid is None else [uid]:
            run, content = self._waiting.pop(name)
            self.store.write(run, content)

    def _documents(self, run: RunState, record: dict[str, Any]) -> None:
        """Upload the record of the sweep and its search-space file."""
        texts = {"sweep.json": json.dumps(record, indent=2)}
        path = self.directory / SPACE_FILE
        if path.is_file():
            texts[SPACE_FILE] = mask_secrets(path.read_text(encoding="utf-8"))

        def upload() -> None:
            for name, text in texts.items():
                self.store.client.log_text(run.run_id, text, name)

        self._upload("the documents of the sweep", self.directory, run, upload)

    def _report(self, event: Event) -> None:
        """Upload the files of a report as they are now; they take the place of an earlier report's."""
        run = self.store.parent(self.sweep, event.time_ms)
        files = [Path(name) for name in event.data["files"]]
        present = [file for file in files if file.is_file()]
        if len(present) < len(files):
            logger.warning("a report is gone from %s before MLflow could take it", files[0].parent)

        def upload() -> None:
            for file in present:
                self.store.client.log_artifact(run.run_id, str(file), REPORT_FOLDER)

        self._upload("the files of the report", files[0].parent, run, upload)

    def _weights(self, uid: str, run: RunState) -> None:
        folder = trial_directory(self.directory, uid)

        def upload() -> None:
            for file in [folder / name for name in WEIGHT_FILES]:
                if file.is_file():
                    self.store.client.log_artifact(run.run_id, str(file))

        self._upload(f"the weights of {uid}", folder, run, upload)

    def _upload(self, what: str, kept_in: Path, run: RunState, upload: Callable[[], None]) -> None:
        """Upload artifacts; after a few failures the run goes without them, and that is said."""
        if web_address(self.store.uri) and urlsplit(run.artifact_uri).scheme in ("", "file"):
            # the server names a folder; on this machine that is some other place, or one a server must not choose
            self._refuse(what, kept_in, "the server does not serve artifacts; start it with --serve-artifacts")
            return
        try:
            upload()
        except Exception as error:
            self._artifact_failures[what] += 1
            if self._artifact_failures[what] < _ARTIFACT_ATTEMPTS:
                raise
            self._refuse(what, kept_in, describe(error))

    def _refuse(self, what: str, kept_in: Path, why: str) -> None:
        if what not in self._refused:
            self._refused.add(what)
            logger.warning("%s stay in %s only: %s", what, kept_in, why)
