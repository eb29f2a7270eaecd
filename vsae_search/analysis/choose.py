"""Which trained autoencoder of a sweep is looked at, and reading it from the sweep directory."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.frontier import nondominated
from vsae_search.saes import load
from vsae_search.saes.storage import RECORD_FILE
from vsae_search.search import TrialRecord, load_confirm, load_sweep

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.saes import SparseAutoencoder
    from vsae_search.search import SweepRecord

_ARRAYS_FILE = "arrays.safetensors"
_TRIALS_FOLDERS = ("trials", "confirm/trials")
_SHOWN = 12


@dataclass(frozen=True)
class Trained:
    """A trained autoencoder of a sweep, not loaded yet.

    Attributes:
        directory: The sweep directory.
        sweep: Its record.
        trial: The trial of the search, or the replicate of the confirmation.
        folder: Where its weights lie.
    """

    directory: Path
    sweep: SweepRecord
    trial: TrialRecord
    folder: Path

    @property
    def name(self) -> str:
        """``SWEEP/UID``."""
        return f"{self.sweep.name}/{self.trial.uid}"

    def load(self) -> SparseAutoencoder:
        """Return the autoencoder, on the CPU.

        Raises:
            CorruptFile: Its files are damaged.
        """
        return load(self.folder)

    def density(self) -> NDArray[np.float64] | None:
        """Share of the sweep's evaluation rows on which each latent fired [F]; None when it was not stored.

        Raises:
            CorruptFile: The file of the stored arrays is damaged.
        """
        path = self.folder / _ARRAYS_FILE
        if not path.is_file():
            return None
        try:
            density_F = load_file(path).get("density")
        except SafetensorError as error:
            raise CorruptFile(f"{path} cannot be read: {error}", "delete it; nothing but densities is lost") from error
        return None if density_F is None else np.asarray(density_F, dtype=np.float64)


def find_trained(directory: Path, uid: str | None = None) -> Trained:
    """Find an autoencoder of a sweep.

    Args:
        directory: The sweep directory.
        uid: A trial of the search, or a replicate of its confirmation; None takes :func:`default_uid`.

    Raises:
        UserInputError: There is no sweep, no such trial, or no weights of it; the hint lists the ones there are.
        CorruptFile: A record cannot be read.
    """
    sweep, trials = load_sweep(directory)
    confirmed = load_confirm(directory)
    known = {trial.uid: trial for trial in [*trials, *(confirmed[1] if confirmed else [])]}
    stored = {name: folder for name in known if (folder := _folder(directory, name)) is not None}
    if not stored:
        raise UserInputError(
            f"The sweep {sweep.name} has no trained autoencoder yet.",
            "Wait until a trial has completed; diverged and failed trials leave no weights.",
        )
    if uid is None:
        uid = default_uid([trial for trial in trials if trial.uid in stored])
    if uid not in stored:
        raise _unknown(sweep.name, uid, known, sorted(stored))
    return Trained(directory, sweep, known[uid], stored[uid])


def default_uid(trials: list[TrialRecord]) -> str:
    """The knee of the frontier of all architectures together.

    Of the completed trials that no other one beats in both L0 and delta-CE, the one nearest to the frontier's lower
    left corner, with log2 L0 and delta-CE each scaled to [0, 1] over the frontier; ties go to the smaller L0.

    Raises:
        UserInputError: No trial has both numbers.
    """
    measured = [trial for trial in trials if trial.state == "completed" and _point(trial) is not None]
    if not measured:
        raise UserInputError("No completed trial has an L0 and a delta-CE.", "Name the trial that is to be analysed.")
    points_N2 = np.array([_point(trial) for trial in measured])
    keep_N = nondominated(points_N2)
    frontier = [trial for trial, kept in zip(measured, keep_N, strict=True) if kept]
    corner_N2 = points_N2[keep_N]
    corner_N2[:, 0] = np.log2(np.maximum(corner_N2[:, 0], 1.0))
    corner_N2 -= corner_N2.min(axis=0)
    corner_N2 /= np.maximum(corner_N2.max(axis=0), 1e-12)
    distance_N = np.hypot(*corner_N2.T).round(12)
    return min(zip(distance_N, frontier, strict=True), key=lambda pair: (pair[0], pair[1].metrics["l0"], pair[1].uid))[
        1
    ].uid


def _point(trial: TrialRecord) -> tuple[float, float] | None:
    point = trial.metrics.get("l0", math.nan), trial.metrics.get("delta_ce", math.nan)
    return point if all(map(math.isfinite, point)) else None


def _folder(directory: Path, uid: str) -> Path | None:
    candidates = [directory / folder / uid for folder in _TRIALS_FOLDERS]
    return next((folder for folder in candidates if (folder / RECORD_FILE).is_file()), None)


def _unknown(sweep: str, uid: str, known: dict[str, TrialRecord], stored: list[str]) -> UserInputError:
    """The error for a uid that cannot be analysed, with those that can be."""
    listed = ", ".join(stored[:_SHOWN]) + (f" and {len(stored) - _SHOWN} more" if len(stored) > _SHOWN else "")
    hint = f"Trained autoencoders of {sweep}: {listed}."
    if uid in known:
        return UserInputError(f"{sweep}/{uid} left no weights: it is {known[uid].state}.", hint)
    if near := difflib.get_close_matches(uid, stored, n=1):
        hint = f"Did you mean {near[0]!r}? {hint}"
    return UserInputError(f"The sweep {sweep} has no trial {uid!r}.", hint)
