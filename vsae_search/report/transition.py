"""Where superposition sets in, and where the loss of a single run has peaks: arrays in, numbers out.

Shapes: R seeds, P sparsities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.search.experiment.plan import REPLICATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from vsae_search.report.data import TrialRow

SPARSITY = "sparsity"


def crossing(x: Sequence[float], values: Sequence[float], threshold: float) -> float | None:
    """Where a curve rises above a threshold for good, interpolated linearly between two places.

    Returns:
        The place; the first one when the curve is above the threshold everywhere; None when it ends at or below it.
        Places without a finite value are passed over.
    """
    points = [(place, value) for place, value in zip(x, values, strict=True) if np.isfinite(value)]
    if not points or points[-1][1] <= threshold:
        return None
    below = [index for index, (_, value) in enumerate(points) if value <= threshold]
    if not below:
        return points[0][0]
    (left, low), (right, high) = points[below[-1]], points[below[-1] + 1]
    return float(left + (right - left) * (threshold - low) / (high - low))


def peaks(x: Sequence[float], values: Sequence[float]) -> list[float]:
    """Places inside a curve where it is higher than at both neighbours."""
    return [
        x[index]
        for index in range(1, len(x) - 1)
        if values[index] > values[index - 1] and values[index] > values[index + 1]
    ]


def curves(rows: Iterable[TrialRow], arm: str, sparsity: Sequence[float], metric: str) -> NDArray[np.float64]:
    """A metric of the completed trials of an arm, by seed and sparsity [R, P]; not a number where there is no trial."""
    own = [row for row in rows if row.architecture == arm and row.state == "completed"]
    seeds = sorted({int(row.params[REPLICATE]) for row in own})
    values_RP = np.full((len(seeds), len(sparsity)), np.nan)
    for row in own:
        value = row.metrics.get(metric)
        if value is not None and row.params[SPARSITY] in sparsity:
            values_RP[seeds.index(int(row.params[REPLICATE])), sparsity.index(row.params[SPARSITY])] = value
    return values_RP


def transition_summary(x: Sequence[float], values_RP: NDArray[np.float64], threshold: float) -> Mapping[str, Any]:
    """Where the seeds cross a threshold: quartiles over those that do, and how many there are."""
    places = [crossing(x, values, threshold) for values in values_RP.tolist()]
    crossed = [place for place in places if place is not None]
    levels = {"low": 25, "median": 50, "high": 75}
    return {
        "seeds": len(places),
        "places": places,
        "crossed": len(crossed),
        "from_start": sum(place == x[0] for place in crossed),
        **{name: float(np.percentile(crossed, level)) if crossed else None for name, level in levels.items()},
    }
