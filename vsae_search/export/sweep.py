"""Writes the chosen autoencoders of a sweep in another library's format: one folder each, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vsae_search.atomic import write_bytes
from vsae_search.errors import EnvironmentNotReady, UnsupportedExport, UserInputError
from vsae_search.export.convert import plain_form
from vsae_search.export.facts import facts_of
from vsae_search.export.formats import writer
from vsae_search.export.select import select_trials
from vsae_search.saes import load
from vsae_search.search import load_sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vsae_search.export.formats import Files, Writes, Written
    from vsae_search.search import SweepRecord, TrialRecord


@dataclass(frozen=True)
class Exported:
    """One autoencoder that lies in the output folder.

    Attributes:
        uid: Its trial.
        architecture: Registered name.
        class_name: What the format calls this kind of autoencoder.
        state: ``written``, or ``unchanged`` when the same files were there.
        folder: Where it is.
        files: Its files.
        needs_loader: Whether one of them is a class that has to be imported first.
        l0: Mean number of firing latents.
        delta_ce: Extra loss.
    """

    uid: str
    architecture: str
    class_name: str
    state: Literal["written", "unchanged"]
    folder: Path
    files: tuple[str, ...]
    needs_loader: bool
    l0: float | None
    delta_ce: float | None


@dataclass(frozen=True)
class Refused:
    """One that has no form in the format, and why."""

    uid: str
    architecture: str
    reason: str


@dataclass(frozen=True)
class Export:
    """What an export did."""

    sweep: SweepRecord
    format: str
    output: Path
    exported: tuple[Exported, ...]
    refused: tuple[Refused, ...]


def export_sweep(directory: Path, format_name: str, *, output: Path, select: str = "pareto") -> Export:
    """Write autoencoders of a sweep to ``<output>/<uid>/``.

    Weights are float32, for activations as the model has them: the input scale is folded in, then the decoder norms.
    The same trial gives the same bytes. A folder that is there already is left as it is when it holds just these
    files; with anything else in it nothing is written at all.

    Args:
        directory: The sweep directory.
        format_name: Name of a format that can be written.
        output: Folder of the exported autoencoders; created when missing.
        select: Which trials; see ``select_trials``.

    Raises:
        UserInputError: Unknown format or trial, no autoencoders at all, or a folder holds something else.
        UnsupportedExport: None of the trials has a form in this format.
        EnvironmentNotReady: Nothing can be written there.
        CorruptFile: A stored autoencoder is damaged.
    """
    target = writer(format_name)
    sweep, _ = load_sweep(directory)
    if "scale" not in sweep.bank:
        raise UserInputError(
            f"{sweep.name} has trained no autoencoders", "give the name of a sweep that searches architectures"
        )
    trials = select_trials(directory, select)
    taken = [trial for trial in trials if (output / trial.uid).exists()]
    for trial in taken:  # before anything is written
        _compared(output / trial.uid, _spelled(directory, sweep, trial, target).files)
    exported: list[Exported] = []
    refused: list[Refused] = []
    for trial in trials:
        try:
            written = _spelled(directory, sweep, trial, target)
        except UnsupportedExport as error:
            refused.append(Refused(trial.uid, trial.architecture, error.message))
            continue
        new = trial not in taken
        if new:
            _write_folder(output / trial.uid, written.files)
        exported.append(_exported(trial, written, output / trial.uid, new=new))
    if not exported:
        raise UnsupportedExport(
            "\n".join(f"{one.uid}: {one.reason}" for one in refused), "choose other trials with --select"
        )
    return Export(sweep, format_name, output, tuple(exported), tuple(refused))


def _spelled(directory: Path, sweep: SweepRecord, trial: TrialRecord, target: Writes) -> Written:
    facts = facts_of(sweep, trial)
    return target.write(plain_form(load(directory / "trials" / trial.uid), facts.scale), facts)


def _exported(trial: TrialRecord, written: Written, folder: Path, *, new: bool) -> Exported:
    return Exported(
        uid=trial.uid,
        architecture=trial.architecture,
        class_name=written.class_name,
        state="written" if new else "unchanged",
        folder=folder,
        files=tuple(sorted(written.files)),
        needs_loader=written.needs_loader,
        l0=trial.metrics.get("l0"),
        delta_ce=trial.metrics.get("delta_ce"),
    )


def _compared(folder: Path, files: Files) -> None:
    """Refuse a folder that holds anything but these files.

    Raises:
        UserInputError: It does; says what differs.
    """
    different = sorted(files.keys() ^ _names(folder)) or sorted(
        name for name, content in files.items() if (folder / name).read_bytes() != content
    )
    if different:
        raise UserInputError(
            f"{folder} exists and is not this autoencoder (different: {', '.join(different)})",
            "remove it, or give another folder with --output",
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _write_folder(folder: Path, files: Files) -> None:
    """Make a folder with these files in one step: it is there with all of them, or not at all.

    Raises:
        EnvironmentNotReady: It cannot be made.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            write_bytes(temporary / name, content, mode=None)
        temporary.rename(folder)
    except OSError as error:
        raise EnvironmentNotReady(
            f"nothing can be written to {folder.parent} ({error.strerror})", "name another folder with --output"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def total_bytes(exported: Sequence[Exported]) -> int:
    """Bytes of all files of some autoencoders."""
    return sum((one.folder / name).stat().st_size for one in exported for name in one.files)
