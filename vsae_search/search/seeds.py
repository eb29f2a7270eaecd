"""Seeds that follow from names: the same sweep seed and uid give the same trial on any machine, in any order."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed from a list of names and numbers.

    Args:
        parts: What the seed belongs to, for example ``(sweep seed, "train", uid)``.

    Returns:
        The first 31 bits of SHA-256 of the parts, so that every random generator accepts it.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
