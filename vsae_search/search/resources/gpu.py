"""What the cards of this machine are doing, as the driver's own tool tells it; nothing where there is none."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_TIMEOUT_S = 5
_MB = 2**20
_QUERY = ("index", "utilization.gpu", "memory.used", "memory.total")


@dataclass(frozen=True)
class Card:
    """One GPU at one moment.

    Attributes:
        index: Its number on this machine.
        busy: Part of the last moments in which it was computing, 0 to 1.
        used_bytes: Memory in use, by everybody.
        total_bytes: Memory in all.
    """

    index: int
    busy: float
    used_bytes: int
    total_bytes: int


def read_cards() -> list[Card]:
    """The GPUs of this machine; empty when there is none, or nobody can tell."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [tool, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return []
    return parse_cards(done.stdout)


def parse_cards(text: str) -> list[Card]:
    """The cards in the tool's table; a line with a number that the card does not report is left out."""
    cards = []
    for line in text.splitlines():
        try:
            index, busy, used, total = (int(cell) for cell in line.split(","))
        except ValueError:
            continue
        cards.append(Card(index, busy / 100, used * _MB, total * _MB))
    return cards
