"""Options that several commands share, and how a sweep is found by its name."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import stat
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vsae_search.errors import EnvironmentNotReady, UserInputError


def folder(path: Path | None) -> Path | None:
    """Refuse an address in place of a folder: the records are locked and replaced in one step, which S3 cannot do.

    Raises:
        UserInputError: Says what to use instead.
    """
    if path is not None and _ADDRESS.match(str(path)):
        raise UserInputError(
            f"{path} is an address, and records and checkpoints are kept in a folder",
            "give a folder that every node mounts (NFS, EFS, Filestore, a shared volume); weights and documents can go "
            "to S3 as well: set tracking.artifacts",
        )
    return path


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
Root = Annotated[
    Path,
    typer.Option("--root", envvar="VSAE_SEARCH_ROOT", callback=folder, help="Folder that holds one folder per sweep."),
]
Reports = Annotated[
    Path,
    typer.Option(
        "--reports", envvar="VSAE_SEARCH_REPORTS", callback=folder, help="Folder that reports are written to."
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Go on in a sweep's folder that another user owns, or can write to.")
]
DEFAULT_ROOT = Path("sweeps")
DEFAULT_REPORTS = Path("reports")


class Output(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="Print a table for people, or JSON.")]


def sweep_directory(root: Path, name: str) -> Path:
    """The folder of an existing sweep.

    Raises:
        UserInputError: when there is no sweep of that name; the hint lists the ones there are.
    """
    directory = root / name
    if Path(name).name == name and (directory / "sweep.json").is_file():
        return directory
    known = sorted(path.parent.name for path in root.glob("*/sweep.json"))
    hint = (
        f"Sweeps in {root}: {', '.join(known)}" if known else f"There is no sweep in {root} yet; --root names another."
    )
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"Did you mean {near[0]!r}? {hint}"
    raise UserInputError(f"There is no sweep called {name!r} in {root}.", hint)


def command_for(command: str, name: str, root: Path) -> str:
    """The command line of a command on a sweep, to be copied from the terminal."""
    where = f" --root {shlex.quote(str(root))}" if root != DEFAULT_ROOT else ""
    return f"python -m vsae_search {command} {name}{where}"


def sweep_or_directory(root: Path, name: str) -> Path:
    """The folder of an existing sweep, given by its name or as a folder.

    Raises:
        UserInputError: when it is neither.
    """
    folder = Path(name)
    return folder if (folder / "sweep.json").is_file() else sweep_directory(root, name)


def obstacle(folder: Path) -> str | None:
    """Why nothing can be written in a folder, whether it is there or still to be made; None when something can.

    Tried, not read off the permissions: a file system may be read-only or full. Nothing stays behind.
    """
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return f"{existing}: {error.strerror or error}"


def require_writable(folder: Path, option: str) -> None:
    """Refuse a folder in which nothing can be written.

    Raises:
        EnvironmentNotReady: says why, and with which option to name another folder.
    """
    reason = obstacle(folder)
    if reason is not None:
        raise EnvironmentNotReady(f"Nothing can be written to {folder} ({reason}).", f"Name another with {option}.")


def require_trusted(directory: Path, trust: bool) -> None:
    """Refuse to go on in a folder that somebody else may have filled: its records and weights would be taken as ours.

    Args:
        directory: The sweep directory; one that is not there yet is made for its owner only.
        trust: Whether the user has looked at it.

    Raises:
        EnvironmentNotReady: Another user owns it, or others can write to it.
    """
    if trust or not directory.is_dir():
        return
    found = directory.stat()
    if found.st_uid != os.getuid():
        reason, fix = f"belongs to another user (number {found.st_uid})", ""
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason, fix = "can be written to by other users", f"close it with: chmod 700 {shlex.quote(str(directory))}; or "
    else:
        return
    raise EnvironmentNotReady(f"{directory} {reason}.", f"{fix}look at what is in it, then go on with --trust")


def refuse_experiment(directory: Path, command: str) -> None:
    """Refuse a toy experiment where a command needs the autoencoders of a search.

    Raises:
        UserInputError: It is one.
    """
    from vsae_search.search import load_sweep

    if "experiment" in load_sweep(directory)[0].space:
        raise UserInputError(
            f"{directory.name} is a toy experiment and has no autoencoders, so {command} has nothing to work on.",
            "More seeds: sweep FILE --set experiment.seeds=N.",
        )


UI_HOST, UI_PORT = "127.0.0.1", 5000


def embedded_store(directory: Path) -> Path | None:
    """The MLflow database of a sweep that keeps its own; None when its runs are on a tracking server."""
    database = directory / "mlflow.db"
    return database if database.is_file() else None


def runs_address(directory: Path) -> str | None:
    """Where links to runs point when the sweep keeps its own database: to what ``ui`` shows. None: to the server."""
    return f"http://{UI_HOST}:{UI_PORT}" if embedded_store(directory) else None
