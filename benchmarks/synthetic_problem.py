"""A search problem shaped like ours, with a known answer: six architectures, two objectives, no training.

Every architecture has a sparsity parameter (a number of latents k, or a coefficient), a learning rate and a width, all
on logarithmic scales; two have one more parameter. L0 follows from the sparsity parameter; delta-CE falls with L0 and
with the width along a curve of the architecture's own; a learning rate away from the architecture's best costs both.
Measurements carry noise: 1 % of L0 and 4 % of delta-CE. Quality is scored on the values without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import moocore
import numpy as np

from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.seeds import derive_seed
from vsae_search.space import ChoiceRange, LogRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vsae_search.space import Range

OBJECTIVES = Objectives(l0=512.0, delta_ce=2.0)
IDEAL = (1.0, 2e-3)
"""Lower left corner of the scored box: (L0, delta-CE)."""
_L0_NOISE, _DELTA_CE_NOISE = 0.01, 0.04


@dataclass(frozen=True)
class Architecture:
    """One synthetic architecture.

    Attributes:
        level: delta-CE at an L0 of 1 and the best learning rate.
        slope: Exponent with which delta-CE falls with L0.
        best_lr: Best learning rate.
        width_gain: Exponent with which delta-CE falls with the width.
        by_k: Whether L0 is set by a whole number k; else by a penalty coefficient.
        extra_best: Best value of the extra parameter; None when there is none.
    """

    level: float
    slope: float
    best_lr: float
    width_gain: float
    by_k: bool
    extra_best: float | None = None

    def ranges(self) -> dict[str, Range]:
        """What is searched."""
        coefficient = LogRange(low=1e-3, high=1e2)
        sparsity: dict[str, Range] = (
            {"k": LogRange(low=2, high=256, integer=True)} if self.by_k else {"coefficient": coefficient}
        )
        extra: dict[str, Range] = {} if self.extra_best is None else {"extra": LogRange(low=1e-3, high=1.0)}
        widths = ChoiceRange(choices=tuple(2**power for power in range(1, 6)))
        return {**sparsity, "lr": LogRange(low=1e-4, high=1e-1), "width": widths, **extra}

    def values(self, params: dict[str, Any]) -> tuple[float, float]:
        """(L0, delta-CE) without noise."""
        mistuned = math.log10(params["lr"] / self.best_lr) ** 2
        if self.extra_best is not None:
            mistuned += 0.5 * math.log10(params["extra"] / self.extra_best) ** 2
        l0 = float(params["k"]) if self.by_k else 40.0 * params["coefficient"] ** -0.6
        l0 *= 1.0 if self.by_k else 1.0 + 0.5 * mistuned
        delta_ce = self.level * max(l0, 0.5) ** -self.slope * (params["width"] / 32) ** -self.width_gain
        return l0, delta_ce * math.exp(0.8 * mistuned)


ARCHITECTURES = {
    "lasso": Architecture(2.2, 0.80, 3e-3, 0.10, by_k=False),
    "gate": Architecture(1.8, 0.90, 1e-3, 0.12, by_k=False, extra_best=0.03),
    "top": Architecture(1.6, 1.00, 5e-3, 0.15, by_k=True),
    "batch": Architecture(1.5, 1.05, 2e-3, 0.15, by_k=True),
    "jump": Architecture(1.7, 1.10, 8e-4, 0.10, by_k=False, extra_best=0.3),
    "gauss": Architecture(2.6, 0.60, 1e-2, 0.20, by_k=False),
}


def measure(architecture: str, params: dict[str, Any], seed: int) -> tuple[float, float]:
    """(L0, delta-CE) as a trial would report them."""
    l0, delta_ce = ARCHITECTURES[architecture].values(params)
    noise = np.random.default_rng(seed).standard_normal(2)
    return l0 * math.exp(_L0_NOISE * noise[0]), delta_ce * math.exp(_DELTA_CE_NOISE * noise[1])


def spread(seed: int) -> dict[str, Proposals]:
    """The searched hyper-parameters of every architecture."""
    return {name: Proposals.of(one.ranges(), derive_seed(seed, "spread", name)) for name, one in ARCHITECTURES.items()}


def area(points: Iterable[tuple[float, float]], low: float = IDEAL[0], high: float = OBJECTIVES.l0) -> float:
    """Hypervolume in (log2 L0, log2 delta-CE) below the reference point and, in L0, inside a range."""
    inside = [(max(l0, IDEAL[0]), max(ce, IDEAL[1])) for l0, ce in points if low <= l0 <= high]
    inside = [point for point in inside if point[1] < OBJECTIVES.delta_ce]
    corner = (math.log2(high), math.log2(OBJECTIVES.delta_ce))
    return float(moocore.hypervolume(np.log2(inside), ref=corner)) if inside else 0.0


@lru_cache
def attainable(architecture: str) -> float:
    """The hypervolume of the best points of an architecture: everything tuned, sparsity on a fine grid."""
    one = ARCHITECTURES[architecture]
    extra = {} if one.extra_best is None else {"extra": one.extra_best}
    grid = range(2, 257) if one.by_k else np.geomspace(1e-3, 1e2, 2000)
    name = "k" if one.by_k else "coefficient"
    points = [one.values({name: x, "lr": one.best_lr, "width": w, **extra}) for x, w in product(grid, (2, 8, 32))]
    return area(points)
