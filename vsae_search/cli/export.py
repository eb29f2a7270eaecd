"""``export``: write the best autoencoders of a sweep in the format of another library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import DEFAULT_ROOT, Root, require_writable, sweep_directory

if TYPE_CHECKING:
    from vsae_search.export import Export

DEFAULT_EXPORTS = Path("exports")


def export(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    format_name: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="saelens (SAEBench reads it too) or dictionary_learning.")
    ],
    select: Annotated[
        str,
        typer.Option(
            metavar="SELECTION",
            help="pareto: the frontier of every architecture; confirmed-pareto: the same from confirmed runs; "
            "all: every completed trial; or uids: topk-0003,relu-0001.",
        ),
    ] = "pareto",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to; left out, exports/NAME/FORMAT.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/REPO", help="Also upload it to this repository of a model hub; a new one is private."
        ),
    ] = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Export autoencoders of a sweep, one folder each, with input scale and decoder norms folded in.

    The result is printed as JSON. The same command again changes nothing; a folder with something else is never
    overwritten.
    """
    from vsae_search.export import export_sweep
    from vsae_search.export.push import check_repository, push_export

    directory = sweep_directory(root, name)
    output = output or DEFAULT_EXPORTS / name / format_name
    if push is not None:
        check_repository(push)
    require_writable(output, "--output")
    done = export_sweep(directory, format_name, output=output, select=select)
    _note(done)
    address = push_export(done, push) if push is not None else None
    _console.out_json({**as_json(done), "pushed": address})


def as_json(done: Export) -> dict[str, Any]:
    """What an export did, as values that JSON can hold."""
    return {
        "sweep": done.sweep.name,
        "format": done.format,
        "directory": str(done.output),
        "exported": [
            {
                "uid": one.uid,
                "architecture": one.architecture,
                "class": one.class_name,
                "needs_loader": one.needs_loader,
                "state": one.state,
                "folder": str(one.folder),
                "files": list(one.files),
                "l0": one.l0,
                "delta_ce": one.delta_ce,
            }
            for one in done.exported
        ],
        "refused": [{"uid": one.uid, "architecture": one.architecture, "reason": one.reason} for one in done.refused],
    }


def _note(done: Export) -> None:
    from vsae_search.activations.plan import format_bytes
    from vsae_search.export.sweep import total_bytes

    for one in done.exported:
        loader = " (import its loader file first)" if one.needs_loader else ""
        l0 = "?" if one.l0 is None else f"{one.l0:.4g}"
        _console.note(f"{one.state}  {one.uid}  L0 {l0}  {one.class_name}{loader}")
    for refused in done.refused:
        _console.note(f"refused  {refused.uid}: {refused.reason}")
    _console.note(f"{len(done.exported)} in {done.output}, {format_bytes(total_bytes(done.exported))}")
