"""``sweep``: search a space and write its Pareto report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import (
    DEFAULT_REPORTS,
    DEFAULT_ROOT,
    Output,
    OutputFormat,
    Reports,
    Root,
    command_for,
    require_writable,
    runs_address,
    sweep_or_directory,
)
from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from vsae_search.cli._progress import LiveProgress, PlainProgress
    from vsae_search.report import ReportPaths
    from vsae_search.search import SweepRecord
    from vsae_search.space import SearchSpace
    from vsae_search.tracking import TrackingStatus

EXIT_TRIALS_FAILED = 4
CLOSE_TERMINATED_S = 5.0
"""What is left of the MLflow record gets no longer than this after SIGTERM: whoever sent it may soon send SIGKILL."""
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the file, e.g. training.batch_size=512."),
]


def sweep(
    space: Annotated[Path, typer.Argument(help="The search space (YAML).", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the sweep, instead of the file's key 'name'.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all, over every architecture.")] = None,
    overrides: Overrides = None,
    begin_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="SWEEP", help="Run first what fits of an earlier sweep's frontiers (name or directory)."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray cluster to join (HOST:PORT); left out, Ray starts on this machine."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Search a space: harvest once, run every trial, record them in MLflow, write the Pareto report.

    A sweep of the same name that was interrupted goes on where it stopped.
    """
    from vsae_search.cli import _plan

    searched = _load(space, name, trials, overrides or [])
    source = None if begin_from is None else sweep_or_directory(root, begin_from)
    plan = _plan.plan(searched, space, root, address, source)
    if dry_run:
        _print_plan(plan, output)
        _plan.check(searched, root)
        return
    if not _console.settings.quiet and output is Output.TABLE:
        _console.note(_plan.as_text(plan))
    run_to_report(searched, root, reports, address, output, source)


def run_to_report(
    space: SearchSpace, root: Path, reports: Path, address: str | None, output: Output, source: Path | None = None
) -> None:
    """Run a sweep, or go on with it, and write its report.

    Raises:
        EnvironmentNotReady: Nothing can be written where the sweep or its report belong.
        typer.Exit: No trial of some architecture was completed.
    """
    require_writable(root, "--root")
    require_writable(reports / space.name, "--reports")
    try:
        record, paths = _run(space, root, reports, address, source)
    except (KeyboardInterrupt, Terminated):
        _console.note(f"go on   {command_for('resume', space.name, root)}")
        raise
    _announce(record, paths, root, output)
    barren = _barren(root / record.name)
    if barren:
        _console.note(
            f"no trial of {', '.join(barren)} was completed; the report and the records under trials/ say why"
        )
        raise typer.Exit(EXIT_TRIALS_FAILED)


def _load(path: Path, name: str | None, trials: int | None, overrides: list[str]) -> SearchSpace:
    from vsae_search.saes import config_classes
    from vsae_search.space import load_space

    options = [f"name={name}"] if name is not None else []
    options += [f"search.trials={trials}"] if trials is not None else []
    return load_space(path, config_classes(), overrides=[*overrides, *options])


def _print_plan(plan: dict[str, object], output: Output) -> None:
    from vsae_search.cli import _plan

    if output is Output.JSON:
        _console.out_json(plan)
    else:
        _console.out(_plan.as_text(plan))
        _console.out("Nothing was started (--dry-run).")


def _run(
    space: SearchSpace, root: Path, reports: Path, address: str | None, source: Path | None
) -> tuple[SweepRecord, ReportPaths]:
    """Run the sweep with its listeners; the report is written after tracking has let go of the runs."""
    from vsae_search.report import write_report
    from vsae_search.search import run_sweep
    from vsae_search.tracking import MlflowListener
    from vsae_search.tracking.listener import CLOSE_TIMEOUT_S

    progress = progress_for(space)
    try:
        progress.stage("preparing the subject and its activations")
        tracking, limit_s = MlflowListener(root / space.name, space.tracking), CLOSE_TIMEOUT_S
        try:
            record = run_sweep(
                space,
                root=root,
                listeners=[tracking, progress],
                ray_address=address,
                begin_from=source,
                on_harvest=progress.on_harvest,
                on_drain=progress.on_drain,
            )
        except Terminated:
            limit_s = CLOSE_TERMINATED_S
            raise
        finally:
            progress.stage("finishing the MLflow record")
            warn_undelivered(tracking.close(limit_s))
        progress.stage("writing the report")
        paths = write_report(root / space.name, reports / space.name, runs_address(root / space.name))
        return record, paths
    finally:
        progress.close()


def warn_undelivered(status: TrackingStatus) -> None:
    """Say what MLflow does not have yet."""
    if not status.complete:
        _console.note(f"MLflow at {status.uri} lacks {status.pending} events: {status.last_error or 'it was too slow'}")
        _console.note("they are kept, and delivered when the same command is given again")


def _barren(directory: Path) -> list[str]:
    """Architectures without a single completed trial: the sweep has nothing to say about them."""
    from vsae_search.search import load_sweep

    record, trials = load_sweep(directory)
    fruitful = {trial.architecture for trial in trials if trial.state == "completed"}
    return [name for name in record.architectures if name not in fruitful]


def progress_for(space: SearchSpace) -> LiveProgress | PlainProgress:
    """The display that fits the terminal."""
    from vsae_search.cli._progress import LiveProgress, PlainProgress

    unit = "tokens" if space.subject.type == "language_model" else "rows"
    live = _console.stderr().is_terminal and not _console.settings.quiet
    return LiveProgress(unit) if live else PlainProgress(unit)


def _announce(record: SweepRecord, paths: ReportPaths, root: Path, output: Output) -> None:
    if output is Output.JSON:
        _console.out_json({"sweep": record.name, "html": str(paths.html), "json": str(paths.json)})
        return
    _console.note(f"runs    {command_for('ui', record.name, root)}")
    _console.note("report")
    _console.out(str(paths.html))
