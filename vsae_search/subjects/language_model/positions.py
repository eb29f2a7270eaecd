"""Which positions of a sequence are explained, and how many sequences a number of rows takes.

Explained are all positions but the first and those that hold a special token (BOS, EOS, padding, by input token): the
model treats these unlike all others, and their activations can be a hundred times as long. A reconstruction replaces
the activation at exactly these positions, and exactly the predictions made there are scored.

Shapes: S sequences, T positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray


def explained(tokens_ST: NDArray[np.integer], special_ids: Collection[int]) -> NDArray[np.bool_]:
    """Return which positions are explained."""
    kept_ST = ~np.isin(tokens_ST, sorted(special_ids))
    kept_ST[:, 0] = False
    return kept_ST


def take_rows(kept_ST: NDArray[np.bool_], num_rows: int) -> NDArray[np.bool_]:
    """Leave out positions at the ends of sequences until ``num_rows`` are left.

    They are taken from the longest sequences first, one from each in turn, so that all sequences remain as equal in
    length as they can be. Since nothing is predicted from the last position of a sequence, the first to go costs no
    prediction.

    Args:
        kept_ST: Explained positions; at least ``num_rows`` of them.
        num_rows: Number of positions to keep.
    """
    count_S = kept_ST.sum(axis=1)
    excess = int(count_S.sum()) - num_rows
    assert excess >= 0, "there are enough positions"
    while excess > 0:
        longest_S = np.flatnonzero(count_S == count_S.max())[-excess:]
        count_S[longest_S] -= 1
        excess -= len(longest_S)
    within_ST: NDArray[np.bool_] = kept_ST.cumsum(axis=1) <= count_S[:, None]
    return kept_ST & within_ST
