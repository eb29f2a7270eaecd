"""``doctor``: is this machine ready for a sweep?"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import DEFAULT_ROOT, Output, OutputFormat, Root, obstacle
from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOORS = {"torch": (2, 6), "ray": (2, 54), "optuna": (5, 0), "mlflow": (3, 17), "transformer_lens": (4, 3)}
_MIN_FREE_GB = 5.0
_TIMEOUT_S = 5.0
_MLFLOW_FIXES = {
    401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "start the server with --allowed-hosts naming this host",
}


@dataclass(frozen=True)
class Check:
    """One finding: its level, what was found and, when something is wrong, what to do."""

    level: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def doctor(
    space: Annotated[Path | None, typer.Option(help="Check what this search space needs, too.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Check every node of a Ray cluster: HOST:PORT to join it, or http://HEAD:8265."
        ),
    ] = None,
    root: Root = DEFAULT_ROOT,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Check this machine: versions, accelerators, disk, shared memory, tokens and what a search space needs.

    With --address also a cluster: its nodes, their versions and memory, and whether all of them share the root.
    """
    remote = address is not None and "://" in address
    checks = [*_versions(), *_accelerators(), *(() if remote else _disk(root)), *_shared_memory(), *_token_file()]
    checks += [*_tracking(space), *_cluster(address, root, space)]
    if output is Output.JSON:
        _console.out_json([asdict(check) for check in checks])
    else:
        for check in checks:
            _console.out(f"{check.level:<4}  {check.found}" + (f"\n      fix: {check.fix}" if check.fix else ""))
    failures = sum(check.level == "fail" for check in checks)
    warnings = sum(check.level == "warn" for check in checks)
    _console.note(f"{failures} failures, {warnings} warnings")
    if failures:
        raise typer.Exit(EnvironmentNotReady.exit_code)


def _versions() -> Iterator[Check]:
    yield Check("ok", f"python {sys.version.split()[0]}")
    for package, floor in _FLOORS.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Check("fail", f"{package} is not installed", "make setup")
            continue
        numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
        old = numbers < floor
        fix = f"install {package} {'.'.join(map(str, floor))} or newer" if old else ""
        yield Check("fail" if old else "ok", f"{package} {version}", fix)


def _accelerators() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        yield Check("ok", f"no CUDA device; trials run on {torch.get_num_threads()} CPU threads")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Check("ok", f"GPU {index}: {properties.name}, {properties.total_memory / 1e9:.0f} GB")


def _disk(root: Path) -> Iterator[Check]:
    reason = obstacle(root)
    if reason is not None:
        yield Check(
            "fail", f"nothing can be written to {root.resolve()} ({reason})", "choose another folder with --root"
        )
        return
    existing = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    enough = free_gb >= _MIN_FREE_GB
    fix = "" if enough else f"free some space, or choose another folder with --root (at least {_MIN_FREE_GB:.0f} GB)"
    yield Check("ok" if enough else "fail", f"{free_gb:.0f} GB free for {root.resolve()}", fix)


def _shared_memory() -> Iterator[Check]:
    shm = Path("/dev/shm")  # noqa: S108 - the object store lives there; nothing is written by this check
    if not shm.is_dir():
        return
    free_gb = shutil.disk_usage(shm).free / 1e9
    enough = free_gb >= 1.0
    fix = "" if enough else "Ray then keeps the activations on disk; in a container mount a larger /dev/shm"
    yield Check("ok" if enough else "warn", f"{free_gb:.1f} GB of shared memory for the activation bank", fix)


def _token_file() -> Iterator[Check]:
    token = Path.home() / ".ray" / "auth_token"
    if not token.is_file():
        return
    mode = stat.S_IMODE(token.stat().st_mode)
    private = mode & (stat.S_IRWXG | stat.S_IRWXO) == 0
    found = f"{token} has mode {mode:04o}"
    yield Check("ok" if private else "warn", found, "" if private else f"chmod 600 {token}")


def _tracking(space: Path | None) -> Iterator[Check]:
    if space is None:
        return
    from vsae_search.saes import config_classes
    from vsae_search.search.store.studies_home import study_storage
    from vsae_search.space import SearchSpace, load_any
    from vsae_search.tracking import tracking_uri

    searched = load_any(space, config_classes())
    tracking = searched.tracking
    uri = tracking_uri(tracking)
    yield Check("ok", f"{space} is a valid search space")
    if tracking.tensorboard:
        yield _event_files()
    if uri is None:
        yield Check("ok", "MLflow: an SQLite file in the sweep's own folder")
    elif urlsplit(uri).scheme in ("http", "https"):
        yield _mlflow_server(uri)
    else:
        yield _database("MLflow", uri)
    storage = study_storage(searched.search.study_storage) if isinstance(searched, SearchSpace) else None
    if storage is not None:
        yield _database("Optuna's studies", storage)


def _database(whose: str, address: str) -> Check:
    """Whether a database takes connections; shown without its password."""
    from vsae_search.search.propose.database import unreachable
    from vsae_search.tracking import mask_secrets

    name, fault = f"the database of {whose}, {mask_secrets(address)},", unreachable(address)
    if fault is None:
        return Check("ok", f"{name} takes connections")
    return Check("fail", f"{name} takes none: {mask_secrets(fault)}", "start it, or correct address and password")


def _cluster(address: str | None, root: Path, space: Path | None) -> list[Check]:
    if address is None:
        return []
    from vsae_search.cli import _cluster_checks
    from vsae_search.saes import config_classes
    from vsae_search.space import load_any

    if "://" in address:
        return _cluster_checks.checks_by_job(address, root)
    return _cluster_checks.checks_by_driver(address, root, None if space is None else load_any(space, config_classes()))


def _event_files() -> Check:
    """Whether TensorBoard event files, which the search space asks for, can be written."""
    from vsae_search.tracking import INSTALL_TENSORBOARD, tensorboard_missing

    missing = tensorboard_missing()
    if missing is not None:
        return Check("fail", missing, INSTALL_TENSORBOARD)
    return Check("ok", "TensorBoard event files can be written")


def _mlflow_server(uri: str) -> Check:
    """``/health`` answers even where every real request is refused, so a real request is made."""
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    shown = urlsplit(uri)._replace(netloc=urlsplit(uri).netloc.rpartition("@")[2]).geturl()
    question = Request(  # noqa: S310 - the caller admits http and https only
        f"{shown.rstrip('/')}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1}).encode(),
        headers={"Content-Type": "application/json"},
    )
    if login := _mlflow_login(uri):
        question.add_unredirected_header("Authorization", login)
    try:
        with urlopen(question, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return Check("ok", f"MLflow at {shown} answers {answer.status}")
    except HTTPError as error:
        return Check("fail", f"MLflow at {shown} answers {error.code}", _MLFLOW_FIXES.get(error.code, "see its log"))
    except (URLError, OSError, HTTPException) as error:
        return Check("fail", f"MLflow at {shown} cannot be reached: {error}", "start it, or correct tracking.uri")


def _mlflow_login(uri: str) -> str | None:
    """The log-in that MLflow's own client sends with every request: from its variables, or from the address."""
    from base64 import b64encode
    from urllib.parse import unquote

    given = urlsplit(uri)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(given.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(given.password or "")
    if user and password:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else None
