"""How training went: losses, L0 and dead latents at a bounded number of steps.

Shapes: B batch, F d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from vsae_search.saes import SparseAutoencoder

MOST_POINTS = 200
"""Points of a curve, however long training is."""
FEWEST_POINTS = 8
"""Points of a curve, however short training is (fewer than that when it has fewer steps)."""
STEPS_PER_POINT = 10
"""Fewest steps for each point, so that looking at the device stays cheap in short trainings too."""
L0_ROWS = 256
"""Rows of a batch on which L0 is counted."""
_DIGITS = 6


@dataclass
class Curve:
    """Columns of equal length, one entry per point.

    Attributes:
        columns: ``step`` and ``tokens`` (rows seen); ``total``, ``reconstruction``, every penalty and ``grad_norm`` as
            means since the point before; ``l0`` and ``dead_fraction`` at the point itself.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, point: Mapping[str, float]) -> None:
        """Append a point; every point has the same names."""
        assert not self.columns or self.columns.keys() == point.keys(), "a curve keeps its columns"
        for name, value in point.items():
            rounded = value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
            self.columns.setdefault(name, []).append(rounded)


def curve_steps(num_steps: int) -> frozenset[int]:
    """Steps after which a point is taken: half of them evenly spread, half at equal ratios; the last step is one."""
    each = max(FEWEST_POINTS, min(MOST_POINTS, num_steps // STEPS_PER_POINT)) // 2
    even = {max(1, round(num_steps * index / each)) for index in range(1, each + 1)}
    ratios = {round(num_steps ** (index / each)) for index in range(1, each + 1)}
    return frozenset(even | ratios)


@torch.no_grad()
def training_l0(sae: SparseAutoencoder, x_BD: Tensor) -> float:
    """Mean number of latents that fire in the code that training judges itself by, on the first rows of a batch."""
    code_BF = sae.training_code(x_BD[:L0_ROWS])
    return float((code_BF != 0).sum() / len(code_BF))
