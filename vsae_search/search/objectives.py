"""The two numbers that the samplers minimise, from the two that people read.

Both are logarithms to base 2, so that one unit is a doubling, and both are clipped between a floor and the reference
point: below the floor a difference is noise, and beyond the reference point a trial adds no hypervolume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vsae_search.search.propose.coverage import log2_l0, signed_distance

L0_FLOOR = 1 / 64
"""Fewer firing latents per row than this are no longer told apart."""
DELTA_CE_FLOOR_FRACTION = 1e-4
"""Smallest delta-CE that is told apart, as a part of the reference delta-CE (which is mean ablation by default)."""


@dataclass(frozen=True)
class Objectives:
    """Maps (L0, delta-CE) to what a study minimises.

    Attributes:
        l0: Reference L0: the ceiling of the first objective.
        delta_ce: Reference delta-CE: the ceiling of the second objective.
        l0_range: Smallest and largest L0 that the user asked for; None when any will do.
    """

    l0: float
    delta_ce: float
    l0_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check that the reference point can be the corner of a logarithmic plane."""
        assert math.isfinite(self.l0)
        assert self.l0 > 0
        assert math.isfinite(self.delta_ce)
        assert self.delta_ce > 0

    @property
    def wanted(self) -> tuple[float, float] | None:
        """The wanted range as log2 L0."""
        return None if self.l0_range is None else (log2_l0(self.l0_range[0]), log2_l0(self.l0_range[1]))

    def outside(self, l0: float) -> float | None:
        """Doublings from an L0 to the wanted range: 0 or less inside; None when no range is wanted."""
        return None if self.wanted is None else signed_distance(log2_l0(l0), self.wanted)

    def values(self, l0: float, delta_ce: float) -> tuple[float, float]:
        """Both objectives, to be minimised.

        Args:
            l0: Mean number of firing latents per row; finite.
            delta_ce: Extra loss with the reconstruction in place; finite, may be negative.

        Returns:
            ``(log2 L0, log2 delta-CE)`` after clipping.
        """
        assert math.isfinite(l0)
        assert math.isfinite(delta_ce)
        floor = DELTA_CE_FLOOR_FRACTION * self.delta_ce
        return (
            math.log2(min(max(l0, min(L0_FLOOR, self.l0 / 2)), self.l0)),
            math.log2(min(max(delta_ce, floor), self.delta_ce)),
        )

    def worst(self) -> tuple[float, float]:
        """What a diverged trial is told as: the reference point itself."""
        return self.values(self.l0, self.delta_ce)


def usable(metrics: dict[str, float]) -> bool:
    """Whether both objectives are there and finite."""
    return all(math.isfinite(metrics.get(key, math.nan)) for key in ("l0", "delta_ce"))
