"""``report``: write a sweep's Pareto report again."""

from __future__ import annotations

from typing import Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import (
    DEFAULT_REPORTS,
    DEFAULT_ROOT,
    Output,
    OutputFormat,
    Reports,
    Root,
    runs_address,
    sweep_directory,
)
from vsae_search.errors import UserInputError


def report(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    tracking_url: Annotated[
        str | None, typer.Option(help="Address of the MLflow server that links to runs point to.")
    ] = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Write the Pareto report of a sweep: one HTML page, figures, tables and report.json."""
    from vsae_search.report import write_report
    from vsae_search.report.links import safe_base

    if tracking_url is not None and safe_base(tracking_url) is None:
        raise UserInputError(
            f"--tracking-url {tracking_url!r} is not the address of a web server.",
            "Give it as http://HOST:PORT or https://HOST, with a path if the server has one.",
        )
    directory = sweep_directory(root, name)
    paths = write_report(directory, reports / name, tracking_url or runs_address(directory))
    if output is Output.JSON:
        _console.out_json({"html": str(paths.html), "json": str(paths.json)})
    else:
        _console.out(str(paths.html))
