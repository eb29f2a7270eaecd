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
    require_writable,
    runs_address,
)

if TYPE_CHECKING:
    from vsae_search.cli._progress import LiveProgress, PlainProgress
    from vsae_search.report import ReportPaths
    from vsae_search.search import SweepRecord
    from vsae_search.space import SearchSpace
    from vsae_search.tracking import TrackingStatus

EXIT_TRIALS_FAILED = 4
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the file, e.g. training.batch_size=512."),
]


def sweep(
    space: Annotated[Path, typer.Argument(help="The search space (YAML).", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the sweep, instead of the file's key 'name'.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all, over every architecture.")] = None,
    overrides: Overrides = None,
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
    plan = _plan.plan(searched, space, root, address)
    if dry_run:
        _print_plan(plan, output)
        _plan.check(searched, root)
        return
    require_writable(root, "--root")
    require_writable(reports / searched.name, "--reports")
    if not _console.settings.quiet and output is Output.TABLE:
        _console.note(_plan.as_text(plan))
    record, paths = _run(searched, root, reports, address)
    _announce(record, paths, output)
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


def _run(space: SearchSpace, root: Path, reports: Path, address: str | None) -> tuple[SweepRecord, ReportPaths]:
    """Run the sweep with its listeners; the report is written after tracking has let go of the runs."""
    from vsae_search.report import write_report
    from vsae_search.search import run_sweep
    from vsae_search.tracking import MlflowListener

    progress = _progress()
    try:
        progress.stage("preparing the subject and its activations")
        tracking = MlflowListener(root / space.name, space.tracking)
        try:
            record = run_sweep(space, root=root, listeners=[tracking, progress], ray_address=address)
        finally:
            progress.stage("finishing the MLflow record")
            _warn_undelivered(tracking.close())
        progress.stage("writing the report")
        paths = write_report(root / space.name, reports / space.name, runs_address(root / space.name))
        return record, paths
    finally:
        progress.close()


def _warn_undelivered(status: TrackingStatus) -> None:
    if not status.complete:
        _console.note(f"MLflow at {status.uri} lacks {status.pending} events: {status.last_error or 'it was too slow'}")
        _console.note("they are kept, and delivered when the same command is given again")


def _barren(directory: Path) -> list[str]:
    """Architectures without a single completed trial: the sweep has nothing to say about them."""
    from vsae_search.search import load_sweep

    record, trials = load_sweep(directory)
    fruitful = {trial.architecture for trial in trials if trial.state == "completed"}
    return [name for name in record.architectures if name not in fruitful]


def _progress() -> LiveProgress | PlainProgress:
    from vsae_search.cli._progress import LiveProgress, PlainProgress

    live = _console.stderr().is_terminal and not _console.settings.quiet
    return LiveProgress() if live else PlainProgress()


def _announce(record: SweepRecord, paths: ReportPaths, output: Output) -> None:
    if output is Output.JSON:
        _console.out_json({"sweep": record.name, "html": str(paths.html), "json": str(paths.json)})
        return
    _console.note(f"runs    python -m vsae_search ui {record.name}")
    _console.note("report")
    _console.out(str(paths.html))
