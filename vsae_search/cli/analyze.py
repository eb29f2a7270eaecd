"""``analyze``: look into one trained autoencoder of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsae_search.cli import _console
from vsae_search.cli._options import (
    DEFAULT_REPORTS,
    DEFAULT_ROOT,
    Reports,
    Root,
    require_writable,
    sweep_directory,
)
from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from vsae_search.analysis import Trained


def analyze(
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    uid: Annotated[
        str | None,
        typer.Argument(help="Trial of the sweep, or of its confirmation; left out, the knee of the frontier."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="UID|NAME/UID", help="Compare with this autoencoder too; can be given several times."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="3,17,...", help="Latents to show one by one; left out, 25 from all levels of density."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Rows to read; left out, 100,000, or as many as the text has.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the files; left out, REPORTS/NAME/analysis/UID.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")] = 0,
    root: Root = DEFAULT_ROOT,
    reports: Reports = DEFAULT_REPORTS,
    json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Look into one trained autoencoder: densities, reconstruction, geometry, co-activation, contexts of features.

    Writes analysis.html, which opens offline, analysis.json with every number and its definition, and latents.csv.
    """
    from vsae_search.analysis import Request, gather, write_analysis
    from vsae_search.search.records import BANK_FOLDER

    directory = sweep_directory(root, name)
    trained = _find(directory, uid)
    if uid is None:
        _console.note(
            f"{trained.trial.uid}: the knee of the frontier of all architectures (name another UID to change it)"
        )
    request = Request(
        trained=trained,
        against=tuple(_other(root, directory, word) for word in against or ()),
        features=_numbers(features),
        num_rows=tokens,
        seed=seed,
    )
    folder = output or reports / name / "analysis" / trained.trial.uid
    require_writable(folder, "--output")
    _console.note("reading the rows")
    material = gather(request, directory.resolve().parent / BANK_FOLDER)
    for note in material.notes:
        _console.note(note)
    _console.note(f"analysing {material.own.d_sae} latents on {material.num_rows} rows")
    paths = write_analysis(material, folder)
    if json:
        _console.out_json({"html": str(paths.html), "json": str(paths.json), "latents": str(paths.latents)})
    else:
        _console.out(str(paths.html))


def _find(directory: Path, uid: str | None) -> Trained:
    from vsae_search.analysis import find_trained

    return find_trained(directory, uid)


def _other(root: Path, directory: Path, word: str) -> Trained:
    """An autoencoder given as UID of the same sweep, or as NAME/UID of another."""
    name, slash, uid = word.rpartition("/")
    return _find(sweep_directory(root, name) if slash else directory, uid)


def _numbers(text: str | None) -> tuple[int, ...]:
    """Numbers of latents, each once, in the order given.

    Raises:
        UserInputError: Something is not a number.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    wrong = [word for word in words if not word.isascii() or not word.isdigit()]
    if wrong or (text is not None and not words):
        raise UserInputError(
            f"--features {text!r} is not a list of numbers of latents.", "Write them with commas: --features 3,17,42"
        )
    return tuple(dict.fromkeys(int(word) for word in words))
