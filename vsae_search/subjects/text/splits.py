"""Which split a document belongs to: a function of its content alone.

The same document is in the same split in every sweep, on every machine, wherever it stands in its source and however
often it occurs, so that nothing is evaluated on text that something was trained on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.subjects.base import Split

SHARES: dict[Split, float] = {"train": 0.90, "calibration": 0.02, "evaluation": 0.04, "confirm": 0.04}
"""Share of the documents in each split, in the order in which the splits divide the hashes."""


def split_of(document: str | NDArray[np.integer]) -> Split:
    """Return the split of a document.

    The first 64 bits of the sha256 of its content, read as a fraction of 2**64, fall into one of four intervals.

    Args:
        document: A text, or the tokens of an already tokenised row.
    """
    if isinstance(document, str):
        content = document.encode("utf-8", "surrogatepass")
    else:
        content = np.ascontiguousarray(document, dtype="<i8").tobytes()
    position = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
    for split, share in SHARES.items():
        if position < share:
            return split
        position -= share
    return "confirm"  # the shares add up to 1 only up to rounding
