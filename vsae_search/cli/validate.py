"""``validate``: check search-space files without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsae_search.cli import _console
from vsae_search.errors import SearchSpaceError


def validate(
    spaces: Annotated[list[Path], typer.Argument(help="Search-space files (YAML).", show_default=False)],
) -> None:
    """Check search-space files: every mistake at once, with file, line and column."""
    from vsae_search.saes import config_classes
    from vsae_search.space import load_space

    refused = 0
    for path in spaces:
        try:
            space = load_space(path, config_classes())
        except SearchSpaceError as error:
            refused += 1
            _console.error(error)
        else:
            _console.out(f"{path}: ok ({len(space.architectures)} architectures, {space.search.trials} trials)")
    if refused:
        raise typer.Exit(SearchSpaceError.exit_code)
