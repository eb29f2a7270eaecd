"""``sweep`` and ``resume`` of a file that runs a toy experiment: the plan, the run, the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import Output, command_for, require_writable
from vsae_search.errors import Terminated, UserInputError

if TYPE_CHECKING:
    from vsae_search.report import ReportPaths
    from vsae_search.search import SweepRecord
    from vsae_search.space import ExperimentSpace

EXIT_TRIALS_FAILED = 4


def plan(space: ExperimentSpace, path: Path, root: Path) -> dict[str, Any]:
    """Collect what is decided before an experiment starts, as values that JSON can hold."""
    from vsae_search.search.experiment.plan import toy_trials
    from vsae_search.tracking import mask_secrets, tracking_uri

    settings = list(space.experiment.settings())
    return {
        "name": space.name,
        "file": str(path),
        "digest": space.digest(),
        "state": _state(space, root),
        "experiment": space.experiment.type,
        "seeds": space.experiment.seeds,
        "trials": len(toy_trials(space)),
        "arms": dict(Counter(setting.arm for setting in settings)),
        "steps": {setting.arm: setting.recipe.steps for setting in settings},
        "tracking": mask_secrets(tracking_uri(space.tracking) or f"sqlite in {root / space.name}"),
        "directory": str(root / space.name),
    }


def as_text(data: dict[str, Any]) -> str:
    """The plan as the block of lines that people read."""
    lines = [
        ("Sweep", f"{data['name']}   ({data['state']}; {data['file']}, experiment {data['digest'][:12]})"),
        ("Kind", f"{data['experiment']} of toy models; no autoencoder is trained"),
    ]
    for arm, settings in data["arms"].items():
        word = "setting " if settings == 1 else "settings"
        lines.append(("", f"  {arm:<20} {settings:>3} {word}   {data['steps'][arm]} steps each"))
    lines += [
        ("Plan", f"{data['trials']} trials: {sum(data['arms'].values())} settings with {data['seeds']} seeds each"),
        ("Tracking", data["tracking"]),
        ("Storage", data["directory"]),
    ]
    return "\n".join(f"{label:<10}{text}" for label, text in lines)


def check(space: ExperimentSpace, root: Path) -> None:
    """Refuse, without starting anything, what the experiment itself would refuse.

    Raises:
        UserInputError: A sweep of that name has another content.
        EnvironmentNotReady: Event files are asked for, and cannot be written.
    """
    from vsae_search.search.store.directory import earlier_session
    from vsae_search.tracking import require_tensorboard

    earlier_session(space, root / space.name)
    if space.tracking.tensorboard:
        require_tensorboard()


def refuse_options(trials: int | None, begin_from: str | None) -> None:
    """Refuse options that mean nothing to an experiment.

    Raises:
        UserInputError: One was given.
    """
    if trials is not None:
        raise UserInputError(
            "--trials does not apply to a toy experiment: its trials are its settings, each with every seed.",
            "Change the number of seeds with --set experiment.seeds=N.",
        )
    if begin_from is not None:
        raise UserInputError("--from does not apply to a toy experiment, which searches nothing.", "Leave it out.")


def start(
    space: ExperimentSpace, path: Path, root: Path, reports: Path, address: str | None, output: Output, *, dry_run: bool
) -> None:
    """Show the plan of an experiment and, unless it is a dry run, run it."""
    from vsae_search.cli.sweep import print_plan

    planned = plan(space, path, root)
    if dry_run:
        print_plan(planned, as_text(planned), output)
        check(space, root)
        return
    if not _console.settings.quiet and output is Output.TABLE:
        _console.note(as_text(planned))
    run_to_report(space, root, reports, address, output)


def run_to_report(space: ExperimentSpace, root: Path, reports: Path, address: str | None, output: Output) -> None:
    """Run an experiment, or go on with it, and write its report.

    Raises:
        EnvironmentNotReady: Nothing can be written where the records or the report belong.
        typer.Exit: No trial of some arm was completed.
    """
    from vsae_search.cli.sweep import announce, barren

    require_writable(root, "--root")
    require_writable(reports / space.name, "--reports")
    try:
        record, paths = _run(space, root, reports, address)
    except (KeyboardInterrupt, Terminated):
        _console.note(f"go on   {command_for('resume', space.name, root)}")
        raise
    announce(record, paths, root, output)
    if empty := barren(root / record.name):
        _console.note(f"no trial of {', '.join(empty)} was completed; the records under trials/ say why")
        raise typer.Exit(EXIT_TRIALS_FAILED)


def _run(space: ExperimentSpace, root: Path, reports: Path, address: str | None) -> tuple[SweepRecord, ReportPaths]:
    from vsae_search.cli._reported import report_sweep
    from vsae_search.cli._tracked import tracked
    from vsae_search.cli.sweep import progress_for
    from vsae_search.search.experiment.run import run_experiment

    progress = progress_for()
    try:
        progress.stage("starting Ray")
        with tracked(root / space.name, space.tracking, progress) as listeners:
            record = run_experiment(
                space, root=root, listeners=listeners, ray_address=address, on_drain=progress.on_drain
            )
        progress.stage("writing the report")
        return record, report_sweep(root / space.name, reports / space.name)
    finally:
        progress.close()


def _state(space: ExperimentSpace, root: Path) -> str:
    """Whether the experiment is new, goes on, or will be refused because it has changed."""
    from vsae_search.search.store.directory import earlier_session

    try:
        earlier = earlier_session(space, root / space.name)
    except UserInputError:
        return "refused: the experiment has changed"
    return "new" if earlier is None else "goes on"
