"""A colour and a marker shape for every architecture, the same in every report.

Colours are those of Okabe and Ito (2008) without yellow and black, plus two that stay apart from them under the
common colour-vision deficiencies and on light and dark backgrounds. Shapes differ too, so that colour is never the
only difference. There are 8 colours and 9 shapes, hence 72 different pairs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8d2f")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "pentagon",
    "star",
    "cross",
    "x",
)
_SLOTS = len(COLOURS) * len(SYMBOLS)  # coprime lengths: slot -> (colour, shape) is one to one

# Widespread architectures keep a place of their own; every other name finds one by its hash.
_FIXED = ("relu", "topk", "vsae_iso", "april", "batch_topk", "jumprelu", "gated", "vsae_topk")


@dataclass(frozen=True)
class Style:
    """How the marks of one architecture look: ``#rrggbb`` and a Plotly symbol name."""

    colour: str
    symbol: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Assign a style to each name.

    A name has a preferred place that depends on nothing but the name. Names are placed in sorted order; when a place
    or its colour is taken, the next free colour is used, and when all colours are, the next free place. The result
    does not depend on the order of ``names``, and no two names share colour and shape up to 72 names.

    Args:
        names: Names of architectures; duplicates count once.
    """
    distinct = sorted(set(names))
    taken = {name: _FIXED.index(name) for name in distinct if name in _FIXED}
    for name in distinct:
        if name not in taken:
            taken[name] = _free_slot(_hash_slot(name), set(taken.values()))
    return {name: Style(COLOURS[slot % len(COLOURS)], SYMBOLS[slot % len(SYMBOLS)]) for name, slot in taken.items()}


def _hash_slot(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big") % _SLOTS


def _free_slot(preferred: int, used: set[int]) -> int:
    candidates = [(preferred + step) % _SLOTS for step in range(_SLOTS)]
    colours = {slot % len(COLOURS) for slot in used}
    symbols = {slot % len(SYMBOLS) for slot in used}
    free = [slot for slot in candidates if slot not in used]
    fresh_colour = [slot for slot in free if slot % len(COLOURS) not in colours]
    fresh_both = [slot for slot in fresh_colour if slot % len(SYMBOLS) not in symbols]
    return (fresh_both or fresh_colour or free or candidates)[0]
