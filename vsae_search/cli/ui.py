"""``ui``: the MLflow user interface of a sweep, on this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import DEFAULT_ROOT, UI_HOST, UI_PORT, Root, embedded_store, sweep_directory
from vsae_search.errors import EnvironmentNotReady, UserInputError

if TYPE_CHECKING:
    from pathlib import Path


def ui(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    root: Root = DEFAULT_ROOT,
    port: Annotated[int, typer.Option(min=1, max=65535, help=f"Port on {UI_HOST}.")] = UI_PORT,
) -> None:
    """Show a sweep's runs in the MLflow user interface, on 127.0.0.1, until Ctrl-C."""
    directory = sweep_directory(root, name)
    database = embedded_store(directory)
    if database is None:
        raise UserInputError(
            f"{name} keeps its runs on a tracking server, not in {directory}.",
            "Open the address that its search space names under tracking.uri.",
        )
    _console.note(f"MLflow of {name}: http://{UI_HOST}:{port}   (Ctrl-C stops it)")
    finished = subprocess.run(_server_command(database, directory, port), env=_server_environment(), check=False)  # noqa: S603
    if finished.returncode not in (0, -2, 130):
        raise EnvironmentNotReady(
            f"The MLflow server ended with status {finished.returncode}.",
            f"Is port {port} in use? Try another with --port.",
        )


def _server_command(database: Path, directory: Path, port: int) -> list[str]:
    """One worker starts in a third of the time of the default four and serves one person just as well."""
    store = f"sqlite:///{database.resolve()}"
    artifacts = (directory / "mlartifacts").resolve().as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", UI_HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", store, "--default-artifact-root", artifacts),
    ]


def _server_environment() -> dict[str, str]:
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
