"""Decoders of single trials, as cards on true features show them: the trial that stands for each architecture.

Shapes: F latents, D activation width, M represented features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.report.data import ReportData, TrialRow
    from vsae_search.report.source import Source

RULE = "the frontier trial with the largest MMCS"
_MIN_NORM = 1e-12
_WEIGHTS, _ARRAYS = "sae.safetensors", "arrays.safetensors"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder and how its latents were matched with the true features.

    Attributes:
        w_FD: Decoder rows, at unit length where they have a direction.
        alive_F: Latents that fire on the evaluation rows and have a direction.
        feature_M: Number of each represented feature.
        latent_M: Latent that the optimal matching gives to it; -1 for none.
    """

    w_FD: NDArray[np.float64]
    alive_F: NDArray[np.bool_]
    feature_M: NDArray[np.int64]
    latent_M: NDArray[np.int64]


def best_trials(data: ReportData) -> dict[str, TrialRow]:
    """Per architecture the frontier trial with the largest MMCS, the first by uid among equals."""
    found = {}
    for entry in data.architectures:
        rows = [row for row in data.frontier(entry.name) if row.metrics.get("mmcs") is not None]
        if rows:
            found[entry.name] = min(rows, key=lambda row: (-(row.metrics["mmcs"] or 0.0), row.uid))
    return found


def read_decoder(source: Source, uid: str, width: int) -> Decoder | None:
    """The decoder of a completed trial; None when its weights or its matching are gone or cannot be read.

    Args:
        source: The sweep.
        uid: The trial.
        width: Number of dimensions that the decoder must have.
    """
    folder = source.folder(uid)
    weights = _tensors(folder / _WEIGHTS, ("W_dec",))
    arrays = _tensors(folder / _ARRAYS, ("density", "feature_index", "feature_latent"))
    if weights is None or arrays is None:
        return None
    rows_FD, (density_F, feature_M, latent_M) = weights[0].astype(np.float64), arrays
    fits = rows_FD.ndim == 2 and rows_FD.shape == (len(density_F), width) and len(feature_M) == len(latent_M)
    if not fits or latent_M.max(initial=-1) >= len(rows_FD) or not np.isfinite(rows_FD).all():
        return None
    norm_F = np.linalg.norm(rows_FD, axis=1)
    has_direction_F = norm_F > _MIN_NORM
    return Decoder(
        w_FD=rows_FD / np.where(has_direction_F, norm_F, 1.0)[:, None],
        alive_F=(density_F > 0) & has_direction_F,
        feature_M=feature_M.astype(np.int64),
        latent_M=latent_M.astype(np.int64),
    )


def _tensors(path: Path, names: tuple[str, ...]) -> list[NDArray[np.floating]] | None:
    """Some tensors of a file; None when it is gone, damaged, or of a type that NumPy does not know."""
    try:
        with safe_open(path, framework="numpy") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError, TypeError, ValueError, KeyError, AttributeError):
        return None
