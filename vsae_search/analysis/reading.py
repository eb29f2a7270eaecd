"""One pass of the rows through the autoencoder: everything that needs an activation, a code and its reconstruction.

Shapes: B rows of one chunk, N rows, D activation width, F latents, G groups of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from vsae_search.analysis.codes import Codes, CodesBuilder
from vsae_search.evaluation import Batch, Context
from vsae_search.evaluation.metrics.reconstruction import Reconstruction
from vsae_search.subjects import Baseline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.summary import Summary
    from vsae_search.saes import SparseAutoencoder
    from vsae_search.subjects import Rows, Subject

MAX_ENTRIES = 1 << 25
"""Firings that are held: 270 MB, and as much again sorted by latent."""
CHUNK_NUMBERS = 1 << 22
"""Numbers in one [B, F] array of a chunk."""
_MAX_CHUNK_ROWS = 4096
_FEW = 4  # chunks that the rows gathered for the firings of one may take
_TINY_NORM = 1e-12
_NO_LOSSES = Baseline(*(np.empty(0) for _ in range(3)))  # the metrics of reconstruction look at no loss
Numbers = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """What the pass has seen.

    Attributes:
        codes: The codes of the rows that were read.
        overall: Metrics of reconstruction over all of them, as an evaluation defines them.
        groups: The same for each group of rows, by the name of the grouping; empty for a group without rows.
        error_F: Sum over rows of the strength of each latent times the remaining error along its direction, float64.
        square_F: Sum over rows of its squared strength, float64.
    """

    codes: Codes
    overall: Numbers
    groups: Mapping[str, tuple[Numbers, ...]]
    error_F: NDArray[np.float64]
    square_F: NDArray[np.float64]


@torch.no_grad()
def read(
    sae: SparseAutoencoder,
    rows: Rows,
    *,
    scale: float,
    subject: Subject,
    groupings: Mapping[str, NDArray[np.int64]] | None = None,
    max_entries: int = MAX_ENTRIES,
) -> Reading:
    """Encode and decode rows once, with the deterministic code that L0 is counted on.

    Rows are read in order until the codes have ``max_entries`` firings; a dense code is therefore read on fewer rows.

    Args:
        sae: The autoencoder; left in the mode in which it came.
        rows: Rows in the subject's own units.
        scale: Factor that brings them to the autoencoder's scale.
        subject: What is explained.
        groupings: Group of each row [N], numbered from 0, by the name of the grouping.
        max_entries: Firings that may be held.
    """
    groupings = groupings or {}
    step = max(1, min(CHUNK_NUMBERS // sae.config.d_sae, _MAX_CHUNK_ROWS))
    max_entries = max(max_entries, step * sae.config.d_sae)  # one chunk always fits
    run = _Pass(sae, Context(rows, scale, subject, _NO_LOSSES, sae.config.d_sae, None), groupings, max_entries)
    was_training = sae.training
    sae.eval()
    try:
        for start in range(0, len(rows.x_ND), step):
            if not run.add(start, rows.x_ND[start : start + step]):
                break
    finally:
        sae.train(was_training)
    return run.result()


class _Pass:
    """The sums of a pass."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        context: Context,
        groupings: Mapping[str, NDArray[np.int64]],
        max_entries: int,
    ) -> None:
        self._sae, self._scale, self._groupings = sae, context.scale, groupings
        self._norm_F = torch.linalg.vector_norm(sae.W_dec, dim=1)
        self._unit_FD = sae.W_dec / self._norm_F.clamp_min(_TINY_NORM)[:, None]
        self._codes = CodesBuilder(context.num_rows, context.d_sae, max_entries)
        self._overall = Reconstruction(context)
        self._by_group = {
            name: [Reconstruction(context) for _ in range(int(group_N.max(initial=-1)) + 1)]
            for name, group_N in groupings.items()
        }
        self._error_F = torch.zeros(context.d_sae, dtype=torch.float64, device=sae.W_dec.device)
        self._square_F = torch.zeros_like(self._error_F)

    def add(self, start: int, raw_BD: NDArray[np.float32]) -> bool:
        """Take in one chunk; False when its codes do not fit any more."""
        x_BD = torch.from_numpy(np.multiply(raw_BD, np.float32(self._scale), dtype=np.float32)).to(self._norm_F.device)
        f_BF = self._sae.encode(x_BD)
        xhat_BD = self._sae.decode(f_BF)
        row_E, latent_E = f_BF.nonzero(as_tuple=True)
        strength_BF = f_BF * self._norm_F
        count_B = torch.bincount(row_E, minlength=len(x_BD)).cpu().numpy()
        value_E = strength_BF[row_E, latent_E].float().cpu().numpy()
        if not self._codes.add(count_B, latent_E.to(torch.int32).cpu().numpy(), value_E):
            return False
        self._overall.update(Batch(start, x_BD, f_BF, xhat_BD, None))
        self._update_groups(start, x_BD, f_BF, xhat_BD)
        self._add_errors(x_BD - xhat_BD, strength_BF, row_E, latent_E)
        self._square_F += strength_BF.square_().sum(dim=0, dtype=torch.float64)
        return True

    def _add_errors(
        self, error_BD: torch.Tensor, strength_BF: torch.Tensor, row_E: torch.Tensor, latent_E: torch.Tensor
    ) -> None:
        """Add strength times remaining error along the direction; only at the firings where these are few."""
        if len(row_E) * error_BD.shape[1] <= CHUNK_NUMBERS * _FEW:
            along_E = torch.linalg.vecdot(error_BD[row_E], self._unit_FD[latent_E])
            self._error_F.index_add_(0, latent_E, (along_E * strength_BF[row_E, latent_E]).double())
        else:
            along_BF = (error_BD @ self._unit_FD.T).mul_(strength_BF)
            self._error_F += along_BF.sum(dim=0, dtype=torch.float64)

    def _update_groups(self, start: int, x_BD: torch.Tensor, f_BF: torch.Tensor, xhat_BD: torch.Tensor) -> None:
        for name, group_N in self._groupings.items():
            group_B = group_N[start : start + len(x_BD)]
            for group in np.unique(group_B):
                rows_R = torch.from_numpy(np.flatnonzero(group_B == group)).to(x_BD.device)
                part = Batch(start, x_BD[rows_R], f_BF[:0], xhat_BD[rows_R], None)
                self._by_group[name][int(group)].update(part)

    def result(self) -> Reading:
        """Return what was seen."""
        groups = {name: tuple(_numbers(metric) for metric in metrics) for name, metrics in self._by_group.items()}
        return Reading(
            self._codes.build(),
            _numbers(self._overall),
            groups,
            self._error_F.cpu().numpy(),
            self._square_F.cpu().numpy(),
        )


def _numbers(metric: Reconstruction) -> Numbers:
    unused = cast("Summary", None)  # the metric keeps its own sums
    return {key: float(value) for key, value in metric.result(unused).items()}
