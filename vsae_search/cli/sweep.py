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
    Trust,
    command_for,
    require_trusted,
    require_writable,
    sweep_or_directory,
)
from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from vsae_search.cli._progress import LiveProgress, PlainProgress
    from vsae_search.report import ReportPaths
    from vsae_search.search import SweepRecord
    from vsae_search.space import ExperimentSpace, SearchSpace

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
    trust: Trust = False,
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Search a space: harvest once, run every trial, record them in MLflow, write the Pareto report.

    A sweep of the same name that was interrupted goes on where it stopped.
    """
    from vsae_search.cli import _experiment, _plan
    from vsae_search.space import ExperimentSpace

    searched = load(space, name, trials, overrides or [])
    require_trusted(root / searched.name, trust)
    if isinstance(searched, ExperimentSpace):
        _experiment.refuse_options(trials, begin_from)
        _experiment.start(searched, space, root, reports, address, output, dry_run=dry_run)
        return
    source = None if begin_from is None else sweep_or_directory(root, begin_from)
    plan = _plan.plan(searched, space, root, address, source)
    if dry_run:
        print_plan(plan, _plan.as_text(plan), output)
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
    announce(record, paths, root, output)
    if empty := barren(root / record.name):
        _console.note(f"no trial of {', '.join(empty)} was completed; the report and the records under trials/ say why")
        raise typer.Exit(EXIT_TRIALS_FAILED)


def load(path: Path, name: str | None, trials: int | None, overrides: list[str]) -> SearchSpace | ExperimentSpace:
    """Read a search space, or a toy experiment, with what the command line changes."""
    from vsae_search.saes import config_classes
    from vsae_search.space import ExperimentSpace, load_any

    catalog, assigned = config_classes(), [*overrides, *([f"name={name}"] if name is not None else [])]
    space = load_any(path, catalog, overrides=assigned)
    if trials is None or isinstance(space, ExperimentSpace):
        return space
    return load_any(path, catalog, overrides=[*assigned, f"search.trials={trials}"])


def print_plan(plan: dict[str, object], text: str, output: Output) -> None:
    """Print what is going to happen, and that nothing was started."""
    if output is Output.JSON:
        _console.out_json(plan)
    else:
        _console.out(text)
        _console.out("Nothing was started (--dry-run).")


def _run(
    space: SearchSpace, root: Path, reports: Path, address: str | None, source: Path | None
) -> tuple[SweepRecord, ReportPaths]:
    """Run the sweep with its listeners; the report is written after tracking has let go of the runs."""
    from vsae_search.cli._reported import report_sweep
    from vsae_search.cli._tracked import tracked
    from vsae_search.search import run_sweep

    progress = progress_for("tokens" if space.subject.type == "language_model" else "rows")
    try:
        progress.stage("preparing the subject and its activations")
        with tracked(root / space.name, space.tracking, progress) as listeners:
            record = run_sweep(
                space,
                root=root,
                listeners=listeners,
                ray_address=address,
                begin_from=source,
                on_harvest=progress.on_harvest,
                on_drain=progress.on_drain,
            )
        progress.stage("writing the report")
        return record, report_sweep(root / space.name, reports / space.name)
    finally:
        progress.close()


def barren(directory: Path) -> list[str]:
    """Architectures without a single completed trial: the sweep has nothing to say about them."""
    from vsae_search.search import load_sweep

    record, trials = load_sweep(directory)
    fruitful = {trial.architecture for trial in trials if trial.state == "completed"}
    return [name for name in record.architectures if name not in fruitful]


def progress_for(unit: str = "rows") -> LiveProgress | PlainProgress:
    """The display that fits the terminal; the unit is what a row of activations stands for."""
    from vsae_search.cli._progress import LiveProgress, PlainProgress

    live = _console.stderr().is_terminal and not _console.settings.quiet
    return LiveProgress(unit) if live else PlainProgress(unit)


def announce(record: SweepRecord, paths: ReportPaths, root: Path, output: Output) -> None:
    """Print where the report is, and how to look at the runs."""
    if output is Output.JSON:
        _console.out_json({"sweep": record.name, "html": str(paths.html), "json": str(paths.json)})
        return
    _console.note(f"runs    {command_for('ui', record.name, root)}")
    _console.note("report")
    _console.out(str(paths.html))
