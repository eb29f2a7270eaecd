"""Where on the (L0, delta_ce) plane one architecture attains more often than another.

Reference: López-Ibáñez, Paquete and Stützle 2010 (exploratory analysis by differences of attainment functions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.attainment import Cells, attainment_cells
from vsae_search.frontier.hypervolume import box_area, usable_ideal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.frontier.attainment import Runs
    from vsae_search.frontier.hypervolume import Point


@dataclass(frozen=True, eq=False)
class AttainmentDifference:
    """Difference of two attainment functions inside the reference box, as rectangles to draw.

    Attributes:
        boxes_C4: Rectangles on which the two differ: (lowest L0, lowest delta_ce, highest L0, highest delta_ce). They
            do not overlap; outside of them both attain equally often.
        share_a_C: Share of the first architecture's runs that attain each rectangle.
        share_b_C: Share of the second one's runs.
        num_runs_a: Runs of the first architecture.
        num_runs_b: Runs of the second one.
        favours_a: Integral of the difference where the first attains more often, as a fraction of the box (0 to 1).
        favours_b: The same for the second. ``favours_a - favours_b`` is the difference of the mean normalised
            hypervolumes; both large means that each is better somewhere.
    """

    boxes_C4: NDArray[np.float64]
    share_a_C: NDArray[np.float64]
    share_b_C: NDArray[np.float64]
    num_runs_a: int
    num_runs_b: int
    favours_a: float
    favours_b: float

    @property
    def difference_C(self) -> NDArray[np.float64]:
        """Share of the first minus share of the second, -1 to 1 and never 0."""
        return self.share_a_C - self.share_b_C


def attainment_difference(
    runs_a: Runs, runs_b: Runs, reference: Point, *, ideal: Point | None = None
) -> AttainmentDifference:
    """Compare how often two architectures attain every place of the reference box.

    Args:
        runs_a: Runs of the first architecture; per run, points of shape [N, 2]: (L0, delta_ce).
        runs_b: Runs of the second one.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        ValueError: One of the two has no runs.
        UserInputError: The corners are not those of a box.
    """
    cells = attainment_cells([runs_a, runs_b], reference, ideal=ideal)
    area = box_area(reference, usable_ideal(reference, ideal))
    integrals_C = (cells.shares_CA[:, 0] - cells.shares_CA[:, 1]) * cells.areas_C / area
    differs_C = cells.shares_CA[:, 0] != cells.shares_CA[:, 1]
    kept = Cells(cells.boxes_C4[differs_C], cells.shares_CA[differs_C])
    return AttainmentDifference(
        boxes_C4=kept.boxes_C4,
        share_a_C=kept.shares_CA[:, 0],
        share_b_C=kept.shares_CA[:, 1],
        num_runs_a=len(runs_a),
        num_runs_b=len(runs_b),
        favours_a=float(np.maximum(integrals_C, 0).sum()),
        favours_b=float(np.maximum(-integrals_C, 0).sum()),
    )
