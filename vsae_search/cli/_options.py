"""Options that several commands share, and how a sweep is found by its name."""

from __future__ import annotations

import difflib
import os
import shlex
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vsae_search.errors import EnvironmentNotReady, UserInputError

Root = Annotated[
    Path, typer.Option("--root", envvar="VSAE_SEARCH_ROOT", help="Folder that holds one folder per sweep.")
]
Reports = Annotated[
    Path, typer.Option("--reports", envvar="VSAE_SEARCH_REPORTS", help="Folder that reports are written to.")
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


UI_HOST, UI_PORT = "127.0.0.1", 5000


def embedded_store(directory: Path) -> Path | None:
    """The MLflow database of a sweep that keeps its own; None when its runs are on a tracking server."""
    database = directory / "mlflow.db"
    return database if database.is_file() else None


def runs_address(directory: Path) -> str | None:
    """Where links to runs point when the sweep keeps its own database: to what ``ui`` shows. None: to the server."""
    return f"http://{UI_HOST}:{UI_PORT}" if embedded_store(directory) else None
