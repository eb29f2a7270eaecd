"""The Typer application: global options, discovery of the commands, and how errors end the process.

A command is one file in this folder whose name is the command's name and which holds a function of that name
(``sweep.py`` -> ``def sweep(...)``). Commands import heavy packages inside their bodies, so that ``--help`` is instant.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vsae_search import __version__
from vsae_search.cli import _console
from vsae_search.errors import Terminated, VsaeSearchError

_ORDER = (  # the order in --help; others follow by name
    *("sweep", "submit", "resume", "status", "logs", "stop", "confirm", "report", "analyze", "export"),
    *("import_sae", "ui", "validate", "schema", "doctor"),
)
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def build_app() -> typer.Typer:
    """Assemble the application from the command files of this folder."""
    app = typer.Typer(
        name="vsae_search",
        help="Find the best sparse autoencoder for a model: one YAML file in, a Pareto report out.",
        epilog="Start with:  python -m vsae_search sweep search_spaces/toy.yaml",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name in _command_names():
        app.command(name.replace("_", "-"))(getattr(importlib.import_module(f"vsae_search.cli.{name}"), name))
    return app


def main() -> NoReturn:
    """Run the command line and end the process with the exit code that fits what happened."""
    try:
        ended = build_app()(standalone_mode=False)  # typer.Exit, and Ctrl-C as 130, come back as a number
        status = ended if isinstance(ended, int) else 0
    except VsaeSearchError as error:
        status = _report(error)
    except Terminated:
        status = EXIT_TERMINATED
    except Exception as error:  # the last boundary: a bug is shown, never hidden
        status = _usage_error(error)
    if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        _console.note("interrupted; what had finished is kept, and the same command goes on")
    sys.exit(status)


def _command_names() -> list[str]:
    found = {
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not module.name.startswith("_") and module.name != "app"
    }
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def _print_version(wanted: bool) -> None:
    if wanted:
        _console.out(f"vsae_search {__version__}")
        raise typer.Exit


def _global_options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and the final paths.")] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="VSAE_SEARCH_DEBUG", help="Show tracebacks.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain output; NO_COLOR does the same.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version  # its callback has ended the program
    _console.configure(quiet=quiet, debug=debug, no_color=no_color)
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(_console.MaskingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("vsae_search").setLevel(level)  # the libraries' own debug lines would drown ours


def _report(error: VsaeSearchError) -> int:
    if _console.settings.debug:
        _console.traceback()
    _console.error(error)
    return error.exit_code


def _usage_error(error: Exception) -> int:
    """Typer's own complaints (unknown command, missing file) keep their text and code; the rest is a bug."""
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):
        if type(error).__name__ != "NoArgsIsHelpError":  # the help is on the screen already
            show()
        return int(error.exit_code)
    _console.traceback()
    _console.note("This is a bug in vsae_search; please report it with the text above.")
    return 1
