"""A point of the plane that frontiers lie in."""

from __future__ import annotations

from vsae_search.space.strict import Strict


class AxisPoint(Strict):
    """A point of the (L0, delta_ce) plane."""

    l0: float
    """Mean number of firing latents per token."""
    delta_ce: float
    """Extra loss when the reconstruction replaces the activation, in the sweep's unit."""
