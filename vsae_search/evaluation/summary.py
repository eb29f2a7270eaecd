"""What the pass over the rows says about the latents: how often each fires, which are alive, where they point.

Shapes: B rows of one chunk, F latents, A alive latents, D activation width, M represented features.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.evaluation.matching import match, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Batch
    from vsae_search.evaluation.truth import Represented

_MIN_NORM = 1e-12


class Tally:
    """Counts that every metric may rely on, kept while the rows stream by."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.num_rows = 0
        self.fired_F = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.strength_F = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.signed = False

    def update(self, batch: Batch) -> None:
        """Take in one chunk."""
        self.num_rows += len(batch.f_BF)
        self.fired_F += batch.fired_BF.sum(dim=0)
        self.strength_F += batch.strength_BF.sum(dim=0, dtype=torch.float64)
        self.signed = self.signed or bool((batch.f_BF < 0).any())

    def summary(self, W_dec_FD: torch.Tensor, truth: Represented | None) -> Summary:
        """Return the summary; call once, after the last chunk."""
        return Summary(
            num_rows=self.num_rows,
            fired_F=self.fired_F.cpu().numpy(),
            strength_F=self.strength_F.cpu().numpy(),
            signed=self.signed,
            W_dec_FD=W_dec_FD.detach().double().cpu().numpy(),
            truth=truth,
        )


class Summary:
    """The latents after the pass over all evaluation rows.

    Attributes:
        num_rows: Number of rows, N.
        fired_F: Rows on which each latent fired.
        activity_F: Sum over rows of |f| ||w||: the code as if every decoder row had unit norm, so that latents can
            be compared with each other.
        signed: Whether any code was negative. A latent of a non-negative code can only stand for the direction into
            which it points; a latent of a signed code stands for both.
        norm_F: Norms of the decoder rows.
        alive_A: Latents that fired at least once and whose decoder row has a direction.
        w_AD: Unit decoder rows of the alive latents, float64.
        truth: The represented features, if known.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        fired_F: NDArray[np.float64],
        strength_F: NDArray[np.float64],
        signed: bool,
        W_dec_FD: NDArray[np.float64],
        truth: Represented | None,
    ) -> None:
        self.num_rows = num_rows
        self.fired_F = fired_F
        self.signed = signed
        self.norm_F = np.linalg.norm(W_dec_FD, axis=1)
        self.activity_F = strength_F * self.norm_F
        self.alive_A = np.flatnonzero((fired_F > 0) & (self.norm_F > _MIN_NORM))
        self.w_AD = W_dec_FD[self.alive_A] / self.norm_F[self.alive_A, None]
        self.truth = truth

    @property
    def num_alive(self) -> int:
        """Number of alive latents, A."""
        return len(self.alive_A)

    @cached_property
    def cosine_MA(self) -> NDArray[np.float64]:
        """Cosine between every represented feature and every alive latent."""
        assert self.truth is not None, "the metric's applies() asks for a ground truth"
        return np.asarray(self.truth.directions_MD @ self.w_AD.T)

    @cached_property
    def similarity_MA(self) -> NDArray[np.float64]:
        """The cosine, or its absolute value if the code is signed."""
        return similarity(self.cosine_MA, signed=self.signed)

    @cached_property
    def match(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The Hungarian map as (features, positions among the alive latents), each ``[min(M, A)]``."""
        return match(self.similarity_MA)
