"""``ui``: the MLflow user interface of a sweep, on this machine only."""

from __future__ import annotations

import os
import socket
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
    """Show a sweep's runs in the MLflow user interface, on 127.0.0.1, until Ctrl-C.

    The server takes the place of this process: a signal to it reaches the server, and nothing outlives it.
    """
    directory = sweep_directory(root, name)
    database = embedded_store(directory)
    if database is None:
        raise UserInputError(
            f"{name} keeps its runs on a tracking server, not in {directory}.",
            "Open the address that its search space names under tracking.uri.",
        )
    _require_free(port)
    _console.note(f"MLflow of {name}: http://{UI_HOST}:{port}   (Ctrl-C stops it)")
    sys.stdout.flush()
    os.execve(sys.executable, _server_command(database, directory, port), _server_environment())  # noqa: S606


def _require_free(port: int) -> None:
    """Refuse a port that cannot be had: the server would end at once, and with the status of success.

    Raises:
        EnvironmentNotReady: The port is in use, or needs more rights.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a port just left is free
        try:
            probe.bind((UI_HOST, port))
        except OSError as error:
            raise EnvironmentNotReady(
                f"Port {port} of {UI_HOST} cannot be used: {error.strerror}.", "Try another with --port."
            ) from error


def _server_command(database: Path, directory: Path, port: int) -> list[str]:
    """One worker starts in a third of the time of the default four and serves one person just as well."""
    store = f"sqlite:///{database.resolve()}"
    artifacts = (directory / "mlartifacts").resolve().as_uri()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", UI_HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
        *("--backend-store-uri", store, "--default-artifact-root", artifacts),
    ]


def _server_environment() -> dict[str, str]:
    return {"MLFLOW_LOGGING_LEVEL": "WARNING", **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
