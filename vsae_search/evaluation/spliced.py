"""The reconstruction of all evaluation rows, and what it does to the subject; computed once for all metrics.

Shapes: B rows of one chunk, N evaluation rows, D activation width.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.subjects import ComparesPredictions, Spliced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Batch
    from vsae_search.subjects import Rows, Subject


class Reconstruction:
    """Collects the reconstruction chunk by chunk, in the subject's units, and splices it.

    Where the reconstruction equals the scaled activation exactly the activation itself is put back, so that a perfect
    autoencoder costs exactly 0.

    Args:
        rows: All evaluation rows.
        scale: Factor by which rows are multiplied before they are encoded.
        subject: What is explained.

    Attributes:
        compare_predictions: Whether the divergence of the predictions is wanted too, which costs extra; to be set
            before the first look at ``spliced``.
    """

    def __init__(self, rows: Rows, scale: float, subject: Subject) -> None:
        self.compare_predictions = False
        self._rows, self._scale, self._subject = rows, scale, subject
        self._xhat_ND: NDArray[np.float32] = np.empty(rows.x_ND.shape, dtype=np.float32)
        self._filled: set[int] = set()

    def add(self, batch: Batch) -> None:
        """Take in one chunk; a chunk that was taken in before is left as it is."""
        if batch.start in self._filled:
            return
        self._filled.add(batch.start)
        chunk = slice(batch.start, batch.start + len(batch.x_BD))
        unscaled_BD = batch.xhat_BD.cpu().numpy() / np.float32(self._scale)
        equal_BD = (batch.xhat_BD == batch.x_BD).cpu().numpy()
        self._xhat_ND[chunk] = np.where(equal_BD, self._rows.x_ND[chunk], unscaled_BD)

    @cached_property
    def spliced(self) -> Spliced:
        """What the splice does; all rows at once, because only the subject knows which rows make a sequence."""
        if self.compare_predictions and isinstance(self._subject, ComparesPredictions):
            return self._subject.splice_with_kl(self._rows, self._xhat_ND)
        return Spliced(np.asarray(self._subject.splice(self._rows, self._xhat_ND), dtype=np.float64))
