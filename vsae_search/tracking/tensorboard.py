"""The listener that writes TensorBoard event files: a directory for every trial, with the metric names of MLflow.

A trial's folder holds a file with its rungs, written while it runs, and one with its final values, written when it has
ended; a new attempt begins anew. The package tensorboardX writes them; it needs neither TensorFlow nor torch.
"""

from __future__ import annotations

import logging
import shutil
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vsae_search.errors import EnvironmentNotReady
from vsae_search.tracking.content import Content, Point, end_content, milliseconds, rung_content, trial_content
from vsae_search.tracking.uris import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vsae_search.search.records import RungRecord, SweepRecord, TrialRecord

TENSORBOARD_FOLDER = "tensorboard"
RUNGS, FINAL = "0.rungs", "1.final"
"""Ends of the file names; TensorBoard reads the files of a folder in the order of their names."""
_PACKAGE = "tensorboardX"
_LONGEST_TEXT = 4000
INSTALL_TENSORBOARD = "Install it with: pip install -c constraints.txt -e '.[tensorboard]'"

logger = logging.getLogger(__name__)


def tensorboard_missing() -> str | None:
    """Why event files cannot be written, as a sentence; None when they can."""
    if find_spec(_PACKAGE) is not None:
        return None
    return f"tracking.tensorboard asks for event files, and the package {_PACKAGE} is not installed."


def require_tensorboard() -> None:
    """Refuse to go on without the package that writes event files.

    Raises:
        EnvironmentNotReady: It is not installed.
    """
    missing = tensorboard_missing()
    if missing is not None:
        raise EnvironmentNotReady(missing, f"{INSTALL_TENSORBOARD}, or leave out tracking.tensorboard.")


class TensorboardListener:
    """Follows a sweep and writes what MLflow gets into event files too.

    Args:
        directory: The sweep directory; the files go to ``tensorboard/<uid>/`` in it.

    Raises:
        EnvironmentNotReady: The package that writes event files is not installed.
    """

    def __init__(self, directory: Path) -> None:
        require_tensorboard()
        self._folder = directory / TENSORBOARD_FOLDER
        self._running: dict[str, _EventFile] = {}
        self._failed = False

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing: every trial has a directory of its own."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Begin a new directory, in place of one that an earlier attempt left."""
        try:
            self._begin(uid, RUNGS).write(trial_content(uid, architecture, params))
        except OSError as error:
            self._report(error)

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Write a trial's metrics at a rung."""
        try:
            file = self._running.get(uid) or self._begin(uid, RUNGS)
            file.write(rung_content(rung.model_dump(mode="json"), time.time_ns() // 1_000_000))
        except OSError as error:
            self._report(error)

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Write what is not there yet; nothing for a trial that an earlier session has written to its end."""
        file = self._running.pop(trial.uid, None)
        if file is None and list((self._folder / trial.uid).glob(f"*{FINAL}")):
            return
        try:
            final = self._begin(trial.uid, FINAL) if file is None else file.followed_by(FINAL)
            data = trial.model_dump(mode="json")
            final.write(end_content(data, milliseconds(trial.ended_at, time.time_ns() // 1_000_000)))
            final.close()
        except OSError as error:
            self._report(error)

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Let go of the files of trials that were running."""
        del record
        self.close()

    def close(self) -> None:
        """Let go of all files; may be called twice."""
        while self._running:
            self._running.popitem()[1].close()

    def _begin(self, uid: str, kind: str) -> _EventFile:
        if (earlier := self._running.pop(uid, None)) is not None:
            earlier.close()
        folder = self._folder / uid
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        file = _EventFile(folder, kind)
        if kind == RUNGS:
            self._running[uid] = file
        return file

    def _report(self, error: OSError) -> None:
        """Say once that event files cannot be written; a full disk must not end the sweep."""
        if not self._failed:
            logger.warning("TensorBoard event files cannot be written, the sweep goes on without them: %s", error)
        self._failed = True


class _EventFile:
    """One event file; a value is written once for each metric and step."""

    def __init__(
        self, folder: Path, kind: str, known: Iterable[tuple[str, int]] = (), *, described: bool = False
    ) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event

        self._folder, self._known, self._described = folder, set(known), described
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{kind}"))
        self._put(Event(wall_time=time.time(), step=0, file_version="brain.Event:2"))

    def write(self, content: Content) -> None:
        """Append the values that are new, and the parameters unless they are there."""
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event

        for point in content.points:
            if (point.key, point.step) not in self._known:
                self._known.add((point.key, point.step))
                self._put(_event(point))
        if content.params and not self._described:
            self._described = True
            text = summary.text("parameters", _table(content.params)[:_LONGEST_TEXT])
            self._put(Event(wall_time=time.time(), step=0, summary=text))
        self._writer.flush()

    def followed_by(self, kind: str) -> _EventFile:
        """Close this file and open another one in its folder, for what this one does not hold."""
        self.close()
        return _EventFile(self._folder, kind, self._known, described=self._described)

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


def _event(point: Point) -> Any:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    value = Summary.Value(tag=point.key, simple_value=point.value)
    return Event(wall_time=point.time_ms / 1000, step=point.step, summary=Summary(value=[value]))


def _table(params: dict[str, str]) -> str:
    """Parameters as the Markdown table that TensorBoard shows."""
    rows = [f"| {key} | {mask_secrets(value)} |" for key, value in params.items()]
    return "\n".join(["| parameter | value |", "|---|---|", *rows])
