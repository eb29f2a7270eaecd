"""What every command uses to talk: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsae_search.errors import SearchSpaceError

if TYPE_CHECKING:
    from rich.console import Console

    from vsae_search.errors import Problem, VsaeSearchError


@dataclass
class Settings:
    """The global options, set once by the application."""

    quiet: bool = False
    debug: bool = False
    no_color: bool = False


settings = Settings()


def configure(*, quiet: bool, debug: bool, no_color: bool) -> None:
    """Take over the global options."""
    settings.quiet, settings.debug, settings.no_color = quiet, debug, no_color
    stderr.cache_clear()


@cache
def stderr() -> Console:
    """The console for people: standard error, plain when it is not a terminal or when colour is unwanted."""
    from rich.console import Console

    # without colour, rich would still write the escapes of bold and dim; without a colour system it writes none
    plain = settings.no_color or bool(os.environ.get("NO_COLOR"))
    return Console(stderr=True, color_system=None if plain else "auto", highlight=False, soft_wrap=True)


def out(text: str) -> None:
    """Print a result on standard output."""
    print(text)


def out_json(data: Any) -> None:
    """Print a result on standard output as JSON."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Tell the user something that is not the result; silent with ``--quiet``."""
    if not settings.quiet:
        stderr().print(text, markup=False)


class MaskingFormatter(logging.Formatter):
    """Formats log lines, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as it is printed."""
        return _masked(super().format(record))


def error(problem: VsaeSearchError) -> None:
    """Print an error and its hint; the hint comes last because it is what the user needs next."""
    console = stderr()
    if isinstance(problem, SearchSpaceError):
        for found in problem.problems:
            _with_excerpt(found)
    else:
        console.print("error: ", style="bold red", end="")
        console.print(_masked(problem.message), markup=False)
    if problem.hint:
        console.print(_masked(problem.hint), style="cyan", markup=False)


def _with_excerpt(found: Problem) -> None:
    """One problem of a file: where, what, and the line with a caret under the place."""
    from vsae_search.space.load import excerpt

    console = stderr()
    console.print(f"{found.file}:{found.line}:{found.column}: ", markup=False, end="")
    console.print("error: ", style="bold red", end="")
    console.print(_masked(found.message), markup=False)
    text = found.assignment or _beginning(Path(found.file))
    if text is None:
        return
    for line in excerpt(text, found).splitlines():
        console.print(f"    {_masked(line)}", style="dim", markup=False)


def _masked(text: str) -> str:
    """Without passwords and the values of secret variables; imported here, where something is wrong already."""
    from vsae_search.tracking.uris import mask_secrets

    return mask_secrets(text)


def _beginning(path: Path) -> str | None:
    """What is shown of a file; None when the problem is that it cannot be read, or never ends."""
    from vsae_search.space.load import MAX_BYTES

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait, a device would go on for ever
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8")
    except (OSError, ValueError):  # ValueError: not UTF-8, or a NUL character in the path
        return None


def traceback() -> None:
    """Print the traceback of the exception being handled, without local variables: they may hold secrets."""
    import traceback as stdlib

    sys.stderr.write(_masked(stdlib.format_exc()))
