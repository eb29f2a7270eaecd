"""Which MLflow run belongs to which trial, kept beside the spool so that a report can link to runs without MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from vsae_search.errors import CorruptFile

if TYPE_CHECKING:
    from pathlib import Path

TRACKING_FOLDER = "tracking"
INDEX_FILE = "runs.json"


class RunIndex(BaseModel):
    """MLflow's names for a sweep and its trials.

    Attributes:
        address: Web address of the tracking server; None for a database, which has no address of its own.
        experiment_id: MLflow experiment.
        sweep: Run of the sweep.
        trials: Trial uid to run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    experiment_id: str
    sweep: str
    trials: dict[str, str] = {}

    def path(self, uid: str) -> str | None:
        """The part of a run's link after the server's address: the same on every server that shows this store."""
        run_id = self.trials.get(uid)
        return None if run_id is None else f"/#/experiments/{self.experiment_id}/runs/{run_id}"

    def url(self, uid: str) -> str | None:
        """Link to a trial's run; None when the trial has none or there is no tracking server."""
        path = self.path(uid)
        return None if path is None or self.address is None else self.address + path

    @property
    def tracking_url(self) -> str | None:
        """Link to the run of the sweep; None when there is no tracking server."""
        if self.address is None:
            return None
        return f"{self.address}/#/experiments/{self.experiment_id}/runs/{self.sweep}"


def read_run_index(directory: Path) -> RunIndex | None:
    """Read the runs of a sweep.

    Args:
        directory: The sweep directory.

    Returns:
        The index, or None when nothing has been delivered to MLflow yet.

    Raises:
        CorruptFile: the file is there and is not an index.
    """
    path = directory / TRACKING_FOLDER / INDEX_FILE
    if not path.is_file():
        return None
    try:
        return RunIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CorruptFile(f"{path}: not a valid run index", f"delete it; it is written again: {error}") from error
