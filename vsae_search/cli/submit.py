"""``submit``: run a sweep as a job of a Ray cluster, and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import Output, OutputFormat, Trust, folder
from vsae_search.cli.sweep import Overrides
from vsae_search.errors import UserInputError

SharedRoot = Annotated[
    Path,
    typer.Option(
        envvar="VSAE_SEARCH_ROOT",
        callback=folder,
        help="Folder of sweeps on the cluster: an absolute path that every node sees.",
        show_default=False,
    ),
]


def submit(
    space: Annotated[Path, typer.Argument(help="The search space (YAML).", show_default=False)],
    address: Annotated[
        str, typer.Option(metavar="URL", help="Ray's job server: http://HEAD:8265.", show_default=False)
    ],
    root: SharedRoot,
    name: Annotated[str | None, typer.Option(help="Name of the sweep, instead of the file's key 'name'.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all, over every architecture.")] = None,
    overrides: Overrides = None,
    begin_from: Annotated[
        str | None,
        typer.Option("--from", metavar="SWEEP", help="Run first what fits of the frontiers of a sweep in the root."),
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(callback=folder, help="Folder of reports on the cluster; left out, 'reports' in the root."),
    ] = None,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="Use the package that the cluster has, instead of a copy of this one."),
    ] = False,
    requirements: Annotated[
        Path | None,
        typer.Option(help="File of packages (NAME==VERSION per line) that the cluster installs for the job."),
    ] = None,
    trust: Trust = False,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Submit a sweep to a Ray cluster: it runs there as a job, also when this machine is switched off.

    The search space is checked here first. The same command after the job has ended, however it did, goes on with the
    sweep; while it runs, a second one is refused.
    """
    from vsae_search.cli import _parcel
    from vsae_search.cli._connect import job_server
    from vsae_search.cli._experiment import refuse_options
    from vsae_search.cli._jobs import PACKAGE_KEY, ROOT_KEY
    from vsae_search.cli.sweep import load
    from vsae_search.space import ExperimentSpace

    searched = load(space, name, trials, overrides or [])
    if isinstance(searched, ExperimentSpace):
        refuse_options(trials, begin_from)
    else:
        _parcel.require_reachable(searched)
    _require_absolute(root, "--root")
    written = reports or root / "reports"
    _require_absolute(written, "--reports")
    extra = {} if requirements is None else {"pip": _parcel.pinned_requirements(requirements)}
    server = job_server(address)
    arguments = ["sweep", space.name, *_options(name, trials, overrides or [], begin_from)]
    arguments += ["--root", str(root), "--reports", str(written), *(["--trust"] if trust else [])]
    facts = {ROOT_KEY: str(root), PACKAGE_KEY: "installed" if installed else "shipped"}
    with _parcel.parcel(space, package=not installed) as sent:
        job = server.submit(searched.name, arguments, {**sent, **extra}, facts)
    _announce(job, searched.name, server.address, root, output)


def _options(name: str | None, trials: int | None, overrides: list[str], begin_from: str | None) -> list[str]:
    found = [] if name is None else ["--name", name]
    found += [] if trials is None else ["--trials", str(trials)]
    found += [part for override in overrides for part in ("--set", override)]
    return found + ([] if begin_from is None else ["--from", begin_from])


def _require_absolute(path: Path, option: str) -> None:
    """A job has a folder of its own, which goes with it: a relative path would lead there."""
    if not path.is_absolute():
        raise UserInputError(
            f"{option} {path} is not an absolute path", "name a folder that every node of the cluster sees"
        )


def _announce(job: str, name: str, address: str, root: Path, output: Output) -> None:
    if output is Output.JSON:
        _console.out_json({"job": job, "sweep": name, "address": address, "directory": str(root / name)})
        return
    for label, command in (("look", "status"), ("read", "logs"), ("end", "stop")):
        _console.note(f"{label:<8}python -m vsae_search {command} {name} --address {address}")
    _console.out(job)
