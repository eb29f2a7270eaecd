"""What a sweep ran with: library versions and the state of the source tree."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import vsae_search

_LIBRARIES = ("torch", "ray", "optuna", "numpy", "scipy", "mlflow", "pydantic", "safetensors")
_GIT_TIMEOUT_S = 10


def versions() -> dict[str, str]:
    """Version of Python, of this program and of the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "vsae_search": vsae_search.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_commit(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Commit of the source tree, and whether tracked files differ from it.

    Args:
        folder: A folder of the tree; that of this package by default.

    Returns:
        ``(None, None)`` when git is missing or the folder is not in a repository with a commit.
    """
    folder = folder or Path(vsae_search.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    if commit is None or status is None:
        return None, None
    return commit.strip(), bool(status.strip())


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout
