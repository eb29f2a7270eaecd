"""The text that every machine with Python has: the source of the standard library.

It differs a little between Python versions (some per cent of the lines between two minor versions) and between
distributions (some leave out ``tkinter`` or ``idlelib``). Left out: tests, because many installations have none;
tables made by programs; and files that name the machine.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from vsae_search.errors import EnvironmentNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKIPPED_FOLDERS = frozenset(
    {
        *("site-packages", "dist-packages", "__pycache__"),
        *("test", "tests", "idle_test"),
        *("encodings", "pydoc_data"),  # code pages and the topics of help(): made by programs
    }
)
_SKIPPED_FILES = frozenset({"html/entities.py", "sitecustomize.py", "usercustomize.py"})
_MACHINE = ("_sysconfigdata", "config-")  # how this interpreter was compiled


def standard_library_documents(folder: Path | None = None) -> Iterator[str]:
    """Yield the source files of the running interpreter's standard library, sorted by path.

    Args:
        folder: Where to look instead.

    Yields:
        Contents of one file: UTF-8, lines end in a line feed, never blank.

    Raises:
        EnvironmentNotReady: There is no source there (some embedded Pythons keep it compiled in an archive).
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    found = False
    for path in sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix()):
        text = _read(path)
        if text.strip():
            found = True
            yield text
    if not found:
        raise EnvironmentNotReady(
            f"no source files of the standard library in {folder}",
            "Use a Python that comes with its library's source, or another text source (subject.text.source).",
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of the corpus, in no particular order."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(_MACHINE)]
        for name in files:
            path = Path(parent, name)
            skipped = path.relative_to(folder).as_posix() in _SKIPPED_FILES or name.startswith(_MACHINE)
            if path.suffix == ".py" and not skipped:
                yield path


def _read(path: Path) -> str:
    """Return the text of a file, or nothing when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")  # universal newlines
    except UnicodeDecodeError:
        return ""
