"""``report``: write a sweep's Pareto report again, or compare several sweeps in one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vsae_search.cli import _console, _reported
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

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_NAME = 100


class Figures(StrEnum):
    """Which figures are written as PNG and PDF."""

    MAIN = "main"
    ALL = "all"


def report(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Name of the sweep; several are compared in one report.")
    ],
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    tracking_url: Annotated[
        str | None, typer.Option(help="Address of the MLflow server that links to runs point to.")
    ] = None,
    figures: Annotated[
        Figures,
        typer.Option(help="The frontier as PNG, SVG and PDF and the other figures as SVG, or all in three formats."),
    ] = Figures.MAIN,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Write the Pareto report of a sweep: one HTML page, figures, tables and report.json.

    Several sweeps of the same subject and evaluation set are compared; architectures are called SWEEP/ARCHITECTURE.
    The report of a single sweep is added to its MLflow run.
    """
    from vsae_search.report import write_report
    from vsae_search.report.links import safe_base

    if tracking_url is not None and safe_base(tracking_url) is None:
        raise UserInputError(
            f"--tracking-url {tracking_url!r} is not the address of a web server.",
            "Give it as http://HOST:PORT or https://HOST, with a path if the server has one.",
        )
    directories = [sweep_directory(root, name) for name in names]
    address = tracking_url or (runs_address(directories[0]) if len(directories) == 1 else None)
    every = figures is Figures.ALL
    paths = write_report(directories, reports / comparison_name(names), address, every_format=every)
    if output is Output.JSON:
        _console.out_json({"html": str(paths.html), "json": str(paths.json)})
    else:
        _console.out(str(paths.html))
    if len(directories) == 1:
        _reported.log_report(directories[0], paths)


def comparison_name(names: Sequence[str]) -> str:
    """Folder of a report: the name of the sweep, or the names of several, joined and of bearable length."""
    joined = "+".join(names)
    return joined if len(joined) <= LONGEST_NAME else f"{names[0]}+{len(names) - 1}-more"
