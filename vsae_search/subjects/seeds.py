"""Random streams that depend on names and numbers only: the same on every worker and in every process."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def digest(content: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of ``content``."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stream(fingerprint: str, purpose: str, index: int) -> np.random.Generator:
    """Return the random generator of one shard of one purpose.

    Two streams that differ in any argument are statistically independent: all 256 bits of a sha256 over the arguments
    enter NumPy's ``SeedSequence``. The bit generator is named, because NumPy may change its default.

    Args:
        fingerprint: Digest of what is drawn.
        purpose: What for: a split, or an internal purpose such as the training of the toy model.
        index: Number of the shard, from 0.

    Returns:
        A fresh generator at the start of its stream.
    """
    name = digest([fingerprint, purpose, index])
    words = [int(name[start : start + 8], 16) for start in range(0, 64, 8)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
