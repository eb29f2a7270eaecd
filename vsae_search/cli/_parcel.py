"""What is sent along with a job: the search space, and a copy of this package, for clusters without it."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import vsae_search
from vsae_search.errors import UserInputError
from vsae_search.space import FilesText, LanguageModelSubject, TokensText

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsae_search.space import SearchSpace

MAX_BYTES = 50 * 10**6
"""Largest parcel: everything that belongs into one is far smaller, and Ray keeps parcels in the memory of its head."""
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]*\])?==[A-Za-z0-9.!+]+")


@contextmanager
def parcel(space: Path | None, *, package: bool) -> Iterator[dict[str, object]]:
    """Put a parcel together; it is taken apart again at the end of the block.

    Args:
        space: The search-space file; None when the job needs none.
        package: Whether this package's source goes along.

    Yields:
        Ray's description of it, as a part of a runtime environment; empty when there is nothing to send.

    Raises:
        UserInputError: It is too large.
    """
    if space is None and not package:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="vsae-parcel-") as folder:
        if package:
            source = Path(vsae_search.__file__).parent
            shutil.copytree(source, Path(folder) / source.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        if space is not None:
            shutil.copy(space, Path(folder) / space.name)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        if size > MAX_BYTES:
            raise UserInputError(
                f"the parcel for the cluster has {size / 1e6:.0f} MB, and at most {MAX_BYTES / 1e6:.0f} MB are sent",
                "install the package on the cluster and give --installed",
            )
        yield {"working_dir": folder}


def pinned_requirements(file: Path) -> list[str]:
    """The packages that a job asks for, from a file with one exact version per line.

    Raises:
        UserInputError: A line names no exact version; every one is listed.
    """
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    loose = [line for line in found if not _PINNED.fullmatch(line)]
    if loose:
        raise UserInputError(
            f"{file} does not pin {', '.join(map(repr, loose[:5]))}", "write every package as NAME==VERSION"
        )
    return found


def require_reachable(space: SearchSpace) -> None:
    """Refuse a search space that reads files of this machine: they are not sent along.

    Raises:
        UserInputError: It names files without saying where they are on the cluster.
    """
    subject = space.subject
    text = subject.text if isinstance(subject, LanguageModelSubject) else None
    paths = text.paths if isinstance(text, FilesText) else (text.path,) if isinstance(text, TokensText) else ()
    here = [path for path in paths if not Path(path).is_absolute()]
    if here:
        raise UserInputError(
            f"subject.text names files of this folder, which the cluster does not see: {', '.join(here[:5])}",
            "put them into a folder that every node sees, and give their absolute paths",
        )
