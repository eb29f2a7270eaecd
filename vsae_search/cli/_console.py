"""What every command uses to talk: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
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

    return Console(stderr=True, no_color=settings.no_color or None, highlight=False, soft_wrap=True)


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


def error(problem: VsaeSearchError) -> None:
    """Print an error and its hint; the hint comes last because it is what the user needs next."""
    console = stderr()
    if isinstance(problem, SearchSpaceError):
        for found in problem.problems:
            _with_excerpt(found)
    else:
        console.print("error: ", style="bold red", end="")
        console.print(problem.message, markup=False)
    if problem.hint:
        console.print(problem.hint, style="cyan", markup=False)


def _with_excerpt(found: Problem) -> None:
    """One problem of a file: where, what, and the line with a caret under the place."""
    from vsae_search.space.load import excerpt

    console = stderr()
    console.print(f"{found.file}:{found.line}:{found.column}: ", markup=False, end="")
    console.print("error: ", style="bold red", end="")
    console.print(found.message, markup=False)
    try:
        text = Path(found.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # the problem may be that the file cannot be read
        return
    for line in excerpt(text, found).splitlines():
        console.print(f"    {line}", style="dim", markup=False)


def traceback() -> None:
    """Print the traceback of the exception being handled, without local variables: they may hold secrets."""
    import traceback as stdlib

    sys.stderr.write(stdlib.format_exc())
