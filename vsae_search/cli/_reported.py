"""Writing the report of a sweep, and adding it to the sweep's MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.cli import _console
from vsae_search.cli._options import runs_address
from vsae_search.cli._tracked import warn_undelivered
from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.report import ReportPaths


def report_sweep(directory: Path, folder: Path) -> ReportPaths:
    """Write the report of a sweep that has ended, and add it to its MLflow run.

    Args:
        directory: The sweep directory.
        folder: Where the report is written.
    """
    from vsae_search.report import write_report

    paths = write_report(directory, folder, runs_address(directory))
    log_report(directory, paths)
    return paths


def log_report(directory: Path, paths: ReportPaths) -> None:
    """Add the page and report.json to the run of the sweep, in place of an earlier report's; never fails a command.

    A sweep that runs at this moment is left alone: it adds a report of its own when it ends. What MLflow cannot take
    is kept, and delivered by the next command that records something.

    Args:
        directory: The sweep directory.
        paths: The report that was written.
    """
    from vsae_search.search.records import SWEEP_FILE, SweepRecord, read_record
    from vsae_search.search.store.lock import driver_of
    from vsae_search.space.sections import TrackingSpec
    from vsae_search.tracking import MlflowListener, has_spool

    driver = driver_of(directory)
    if not has_spool(directory) or (driver is not None and driver.alive):
        return
    record = read_record(directory / SWEEP_FILE, SweepRecord)
    try:
        listener = MlflowListener(directory, TrackingSpec.model_validate(record.space.get("tracking") or {}))
    except (ValueError, UserInputError) as error:
        _console.note(f"the report was not added to MLflow: {error}")
        return
    listener.log_report(record.name, (paths.html, paths.json))
    warn_undelivered(listener.close())
