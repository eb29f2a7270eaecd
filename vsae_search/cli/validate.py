"""``validate``: check search-space files without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsae_search.cli import _console
from vsae_search.errors import SearchSpaceError

if TYPE_CHECKING:
    from vsae_search.space import ExperimentSpace, SearchSpace


def validate(
    spaces: Annotated[list[Path], typer.Argument(help="Search-space files (YAML).", show_default=False)],
) -> None:
    """Check search-space files: every mistake at once, with file, line and column."""
    from vsae_search.saes import config_classes
    from vsae_search.space import load_any
    from vsae_search.tracking import tensorboard_missing

    refused = 0
    for path in spaces:
        try:
            space = load_any(path, config_classes())
        except SearchSpaceError as error:
            refused += 1
            _console.error(error)
        else:
            _console.out(f"{path}: ok ({_size(space)})")
            if space.tracking.tensorboard and (missing := tensorboard_missing()):
                _console.note(f"{path}: {missing}")
    if refused:
        raise typer.Exit(SearchSpaceError.exit_code)


def _size(space: SearchSpace | ExperimentSpace) -> str:
    from vsae_search.space import SearchSpace

    if isinstance(space, SearchSpace):
        return f"{len(space.architectures)} architectures, {space.search.trials} trials"
    settings = sum(1 for _ in space.experiment.settings())
    return f"{space.experiment.type} experiment, {settings} settings with {space.experiment.seeds} seeds each"
