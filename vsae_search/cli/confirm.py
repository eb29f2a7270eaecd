"""``confirm``: train a sweep's best configurations again, with new seeds and on held-out rows."""

from __future__ import annotations

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
    refuse_experiment,
    require_trusted,
    require_writable,
    sweep_directory,
)
from vsae_search.errors import Terminated

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.report import ReportPaths
    from vsae_search.search import ConfirmRecord
    from vsae_search.search.confirm.plan import ConfirmPlan

EXIT_TRAININGS_FAILED = 4


def confirm(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    seeds: Annotated[int, typer.Option(help="Trainings of every configuration, earlier ones included.")] = 6,
    margin: Annotated[
        int, typer.Option(help="Ranks behind the frontier that are confirmed too; 0 is the frontier alone.")
    ] = 1,
    architectures: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these architectures; left out, all.")
    ] = None,
    max_configurations: Annotated[
        int | None,
        typer.Option(
            help="Most configurations of one architecture; left out, its frontier or a quarter of its trials, up to 12."
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
    """Confirm a sweep: train its best configurations again with new seeds, measured on rows it never saw.

    At the end the report is written again.
    The same command again goes on where it stopped; with more seeds it trains only those that are missing.
    """
    from vsae_search.cli import _confirm, _reported
    from vsae_search.search.confirm.plan import ConfirmRequest, plan_confirm

    directory = sweep_directory(root, name)
    require_trusted(directory, trust)
    refuse_experiment(directory, "confirm")
    named = tuple(part.strip() for part in (architectures or "").split(",") if part.strip())
    request = ConfirmRequest(seeds, margin, named, max_configurations)
    plan = plan_confirm(directory, request)
    data = _confirm.describe(plan)
    if dry_run:
        _print_plan(data, output)
        return
    require_writable(directory, "--root")
    require_writable(reports / name, "--reports")
    if output is Output.TABLE:
        _console.note(_confirm.plan_as_text(data))
    try:
        record = _run(directory, plan, address)
    except (KeyboardInterrupt, Terminated):
        _console.note(f"go on   {command_for('confirm', name, root)}")
        raise
    _announce(directory, name, record, _reported.report_sweep(directory, reports / name), output)


def _print_plan(data: dict[str, object], output: Output) -> None:
    from vsae_search.cli import _confirm

    if output is Output.JSON:
        _console.out_json(data)
    else:
        _console.out(_confirm.plan_as_text(data))
        _console.out("Nothing was started (--dry-run).")


def _run(directory: Path, plan: ConfirmPlan, address: str | None) -> ConfirmRecord:
    """Run it with its listeners; its MLflow runs go to the experiment of the sweep, under a run of their own."""
    from vsae_search.cli._tracked import tracked
    from vsae_search.cli.sweep import progress_for
    from vsae_search.search import run_confirm
    from vsae_search.search.confirm.records import CONFIRM_FOLDER

    progress = progress_for("tokens" if plan.space.subject.type == "language_model" else "rows")
    spec = plan.space.tracking
    spec = spec.model_copy(update={"experiment": spec.experiment or plan.sweep.name})
    try:
        progress.stage("preparing the subject, its activations and the held-out rows")
        with tracked(directory / CONFIRM_FOLDER, spec, progress, store=directory) as listeners:
            return run_confirm(
                directory,
                plan.request,
                listeners=listeners,
                ray_address=address,
                on_harvest=progress.on_harvest,
                on_drain=progress.on_drain,
            )
    finally:
        progress.close()


def _announce(directory: Path, name: str, record: ConfirmRecord, paths: ReportPaths, output: Output) -> None:
    """Print what was found.

    Raises:
        typer.Exit: No replicate of some architecture was completed.
    """
    from vsae_search.cli import _confirm
    from vsae_search.search import load_confirm, load_sweep, pair_with_search

    sweep, trials = load_sweep(directory)
    _, replicates = load_confirm(directory) or (record, [])
    rows = _confirm.summarise(pair_with_search(record, trials, replicates), sweep.reference)
    if output is Output.JSON:
        found = {"sweep": name, "directory": str(directory / "confirm"), "architectures": rows}
        _console.out_json({**found, "html": str(paths.html), "json": str(paths.json)})
    else:
        _console.out(_confirm.summary_as_text(rows, f"{record.loss_name} ({record.loss_unit})"))
        _console.note("report")
        _console.out(str(paths.html))
    barren = [row["architecture"] for row in rows if not row["states"].get("completed")]
    if barren:
        _console.note(f"no training of {', '.join(barren)} was completed; the records under confirm/trials/ say why")
        raise typer.Exit(EXIT_TRAININGS_FAILED)
