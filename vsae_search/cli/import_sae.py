"""``import-sae``: measure an autoencoder from elsewhere, and draw it in the report of a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import (
    DEFAULT_ROOT,
    Output,
    OutputFormat,
    Root,
    command_for,
    require_writable,
    sweep_directory,
)


def import_sae(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    path: Annotated[Path, typer.Argument(help="Folder (or file) of the autoencoder.")],
    format_name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="saelens, dictionary_learning or spar.")
    ],
    label: Annotated[
        str | None, typer.Option(help="What the report calls it; left out, the name of the folder.")
    ] = None,
    any_hook: Annotated[
        bool, typer.Option("--any-hook", help="Accept one whose file names another hook; its width has to fit.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Measure an autoencoder from elsewhere on the evaluation rows of a sweep, as a reference for its frontiers.

    It gets every metric of a trial and a mark of its own in the report. It enters no frontier and no comparison.
    """
    from vsae_search.export.imported import import_sae as run

    directory = sweep_directory(root, name)
    require_writable(directory, "--root")
    done = run(directory, path, format_name, label=label or default_label(path), check_hook=not any_hook)
    record = done.record
    if done.note:
        _console.note(f"warning: {done.note}")
    if output is Output.JSON:
        _console.out_json({"sweep": name, "file": str(done.path), **record.model_dump(mode="json")})
        return
    shown = ("l0", "delta_ce", "fvu", "dead_fraction")
    numbers = "  ".join(f"{key} {record.metrics[key]:.4g}" for key in shown if key in record.metrics)
    _console.out(f"{record.label}  {record.class_name}, {record.d_sae} latents  {numbers}")
    _console.note(f"report  {command_for('report', name, root)}")


def default_label(path: Path) -> str:
    """The name of the folder or file, with only the characters that a label can have."""
    resolved = path.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
