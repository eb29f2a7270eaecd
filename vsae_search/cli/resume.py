"""``resume``: go on with a sweep that was interrupted, from its directory alone."""

from __future__ import annotations

from typing import Annotated

import typer

from vsae_search.cli._options import (
    DEFAULT_REPORTS,
    DEFAULT_ROOT,
    Output,
    OutputFormat,
    Reports,
    Root,
    Trust,
    require_trusted,
    sweep_directory,
)


def resume(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, over every architecture; more than before adds some.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray cluster to join (HOST:PORT); left out, Ray starts on this machine."
        ),
    ] = None,
    trust: Trust = False,
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Go on with a sweep where it stopped, without its search-space file, and write its report.

    Trials that have ended are kept; those that were running go on from their last checkpoint, under the same names.
    """
    from vsae_search.cli import _experiment
    from vsae_search.cli.sweep import run_to_report
    from vsae_search.saes import config_classes
    from vsae_search.search.store.directory import SPACE_FILE
    from vsae_search.space import ExperimentSpace, load_any, load_space

    directory = sweep_directory(root, name)
    require_trusted(directory, trust)
    catalog, file = config_classes(), directory / SPACE_FILE
    space = load_any(file, catalog)
    if isinstance(space, ExperimentSpace):
        _experiment.refuse_options(trials, None)
        _experiment.run_to_report(space, root, reports, address, output)
        return
    options = [f"search.trials={trials}"] if trials is not None else []
    run_to_report(load_space(file, catalog, overrides=options), root, reports, address, output)
