"""delta_ce at matched L0: what an architecture costs at the sparsity that the reader cares about.

The value at L0 = l is read from the *staircase* of one run: the lowest delta_ce among its SAEs with an L0 of at most
l. It claims nothing that was not trained. A frontier whose nearest SAE lies just above l is charged the next sparser
one, so read differences with the spacing of the points in mind.

``interpolated`` is the other reading: straight lines between neighbouring frontier points on (log2 L0, delta_ce).
It is smoother and it is an estimate, not a result: no SAE on the line was trained. Label it as such.

A run that has no SAE with L0 <= l attains nothing there. Its value is infinity, so that it counts as worse than any
other in medians and comparisons; means and t intervals exist only where every run attains something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vsae_search.frontier.intervals import Interval, mean_interval, median_interval
from vsae_search.frontier.staircase import attained, staircase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from vsae_search.frontier.replicates import Replicates

MATCHED_L0 = (8.0, 16.0, 32.0, 64.0, 128.0)  # latents per token at which architectures are compared

Reading = Literal["staircase", "interpolated"]


@dataclass(frozen=True)
class Matched:
    """One architecture's delta_ce at one L0, over its replicates.

    Attributes:
        architecture: Name of the architecture.
        l0: The L0 at which the frontiers were read.
        reading: ``staircase``, or ``interpolated`` for an estimate between trained SAEs.
        values: delta_ce of each run, in the order of its seeds; None where the run's frontier does not reach.
        num_reached: Runs that reach.
        mean: Mean of the runs; None unless every run reaches.
        mean_interval: Student's t interval of that mean; None unless every run reaches, and with a single run.
        median: Median of the runs; None where half or more of the runs do not reach.
        median_interval: Order-statistic interval of the median, with its exact coverage; an end is None where the
            runs that do not reach leave it without bound.
    """

    architecture: str
    l0: float
    reading: Reading
    values: tuple[float | None, ...]
    num_reached: int
    mean: float | None
    mean_interval: Interval | None
    median: float | None
    median_interval: Interval | None


def matched(
    replicates: Replicates,
    l0s: Sequence[float] = MATCHED_L0,
    *,
    reading: Reading = "staircase",
    coverage: float = 0.95,
) -> tuple[Matched, ...]:
    """Read every run's frontier at the given values of L0.

    Args:
        replicates: The runs of one architecture.
        l0s: Values of L0, in latents per token.
        reading: How to read between two frontier points.
        coverage: Nominal coverage of the intervals.
    """
    values_RG = read_frontiers(replicates.points_RN2, l0s, reading=reading)
    return tuple(
        _summarise(replicates.architecture, float(l0), reading, values_RG[:, index], coverage)
        for index, l0 in enumerate(l0s)
    )


def read_frontiers(
    runs: Sequence[ArrayLike] | NDArray[np.float64], l0s: ArrayLike, *, reading: Reading = "staircase"
) -> NDArray[np.float64]:
    """delta_ce of every run at every L0, shape [R, G]; infinity where the run's frontier does not reach.

    Args:
        runs: Per run, points of shape [N, 2]: (L0, delta_ce).
        l0s: Values of L0, shape [G].
        reading: How to read between two frontier points.
    """
    l0_G = np.asarray(l0s, dtype=np.float64).reshape(-1)
    read = attained if reading == "staircase" else interpolated
    return np.array([read(points_N2, l0_G) for points_N2 in runs]).reshape(len(runs), len(l0_G))


def interpolated(points_N2: ArrayLike, l0_G: ArrayLike) -> NDArray[np.float64]:
    """Straight lines on (log2 L0, delta_ce) through the corners of the staircase.

    Left of the first corner with an L0 above zero, and right of the last one, it is the staircase itself.

    Args:
        points_N2: One row per point: (L0, delta_ce).
        l0_G: Values of L0 above zero at which to read, shape [G].

    Returns:
        Array of shape [G]; infinity where every point has a larger L0.
    """
    l0_G = np.asarray(l0_G, dtype=np.float64)
    result_G = attained(points_N2, l0_G)
    corners_M2 = staircase(points_N2)
    corners_M2 = corners_M2[corners_M2[:, 0] > 0]  # an SAE that never fires has no place on a log axis
    if len(corners_M2):
        between_G = (l0_G >= corners_M2[0, 0]) & (l0_G <= corners_M2[-1, 0])
        result_G[between_G] = np.interp(np.log2(l0_G[between_G]), np.log2(corners_M2[:, 0]), corners_M2[:, 1])
    return result_G


def _summarise(
    architecture: str, l0: float, reading: Reading, values_R: NDArray[np.float64], coverage: float
) -> Matched:
    reached_R = np.isfinite(values_R)
    everyone = bool(len(values_R)) and bool(reached_R.all())
    middle = _median(values_R)
    return Matched(
        architecture=architecture,
        l0=l0,
        reading=reading,
        values=tuple(value if math.isfinite(value) else None for value in values_R.tolist()),
        num_reached=int(reached_R.sum()),
        mean=float(values_R.mean()) if everyone else None,
        mean_interval=mean_interval(values_R, coverage=coverage) if everyone else None,
        median=middle if math.isfinite(middle) else None,
        median_interval=median_interval(values_R, coverage=coverage) if reached_R.any() else None,
    )


def _median(values_R: NDArray[np.float64]) -> float:
    """Median with infinities; np.median would make NaN of infinity minus infinity."""
    ordered = np.sort(values_R).tolist()
    if not ordered:
        return math.inf
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low + (high - low) / 2) if math.isfinite(high) else math.inf
