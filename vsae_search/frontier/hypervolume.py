"""Hypervolume of a set of points on (log2 L0, delta_ce), with a fixed reference point.

The hypervolume is the area of the box between an ideal point (lower left) and the reference point (upper right) that
the points dominate. Its unit is octaves of L0 times the unit of delta_ce. Both corners are fixed before any trial is
looked at, so numbers of different architectures and repeated sweeps can be compared.

Three things happen to points before the area is measured, and each is counted in the result:

* a non-finite point is removed;
* a point on or beyond the reference in either column is *outside* and adds nothing;
* a point better than the ideal in a column is moved onto the ideal. An L0 of zero (an SAE that never fires) has no
  logarithm, and a delta_ce below zero is noise: neither may add area without bound.

Reference: Zitzler and Thiele 1998; the scale is part of the definition, as log2 and linear L0 rank sets differently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import moocore
import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.frontier.dominance import as_points, finite_rows, nondominated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

Point = tuple[float, float]  # (L0, delta_ce), L0 itself and not its logarithm

IDEAL: Point = (1.0, 0.0)  # one latent per token and nothing lost


@dataclass(frozen=True)
class Hypervolume:
    """How much of the box between ideal and reference a set of points dominates.

    Attributes:
        value: Area in octaves of L0 times the unit of delta_ce.
        normalised: Area as a fraction of the box, 0 to 1.
        num_points: Points given.
        num_non_finite: Points with a NaN or an infinity, removed.
        num_outside: Finite points on or beyond the reference point, which add nothing.
        num_clipped: Points inside the reference that were moved onto the ideal in a column.
        reference: (L0, delta_ce) of the upper right corner: a hypervolume means nothing without its box.
        ideal: (L0, delta_ce) of the lower left corner.
    """

    value: float
    normalised: float
    num_points: int
    num_non_finite: int
    num_outside: int
    num_clipped: int
    reference: Point
    ideal: Point


def default_ideal(reference: Point, true_l0: float | None = None) -> Point:
    """The ideal point of a sweep: L0 of 1, or less where the subject or the reference asks for it; delta_ce of 0.

    A toy subject may have fewer than one active feature per row on average, so the ideal L0 is at most a quarter of
    the true one. It is at most a quarter of the reference L0 too, so that the box is never empty. It is rounded down
    to a power of two.

    Args:
        reference: (L0, delta_ce) of the reference point.
        true_l0: Mean number of active features per row, where the subject knows it.
    """
    limits = [IDEAL[0], reference[0] / 4]
    if true_l0 is not None and true_l0 > 0:
        limits.append(true_l0 / 4)
    return 2.0 ** math.floor(math.log2(min(limits))), IDEAL[1]


def outside(points_N2: ArrayLike, reference: Point) -> NDArray[np.bool_]:
    """Which finite points lie on or beyond the reference point in either column, as a mask of shape [N]."""
    points_N2 = as_points(points_N2)
    outside_N: NDArray[np.bool_] = (points_N2 >= np.asarray(reference)).any(axis=1) & finite_rows(points_N2)
    return outside_N


def hypervolume(points_N2: ArrayLike, reference: Point, *, ideal: Point | None = None) -> Hypervolume:
    """Area of the reference box that a set of points dominates, on (log2 L0, delta_ce).

    Args:
        points_N2: One row per point: (L0, delta_ce), both minimised; dominated points and duplicates add nothing.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        UserInputError: The reference is not finite or not beyond the ideal in both columns, or the ideal is not finite
            or has an L0 of zero.
    """
    points_N2 = as_points(points_N2)
    low = usable_ideal(reference, ideal)
    inside_N2 = inside(points_N2, reference)
    scaled_N2 = log_scaled(np.maximum(inside_N2, np.asarray(low)))
    corner = (math.log2(reference[0]), reference[1])
    area = float(moocore.hypervolume(scaled_N2, ref=corner)) if len(scaled_N2) else 0.0
    return Hypervolume(
        value=area,
        normalised=min(area / box_area(reference, low), 1.0),
        num_points=len(points_N2),
        num_non_finite=int((~finite_rows(points_N2)).sum()),
        num_outside=int(outside(points_N2, reference).sum()),
        num_clipped=int((inside_N2 < np.asarray(low)).any(axis=1).sum()),
        reference=reference,
        ideal=low,
    )


def hypervolume_history(points_N2: ArrayLike, reference: Point, *, ideal: Point | None = None) -> NDArray[np.float64]:
    """Normalised hypervolume of the first 1, 2, ..., N points, shape [N]: how a search got there.

    Args:
        points_N2: One row per trial in the order in which they ended; a row with a NaN (a trial without a result)
            leaves the curve where it was.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        UserInputError: As for `hypervolume`.
    """
    points_N2 = as_points(points_N2)
    ideal = usable_ideal(reference, ideal)
    history_N, kept_M2 = np.zeros(len(points_N2)), points_N2[:0]
    for index, point_2 in enumerate(points_N2):
        kept_M2 = np.vstack([kept_M2, point_2])
        kept_M2 = kept_M2[nondominated(kept_M2)]
        history_N[index] = hypervolume(kept_M2, reference, ideal=ideal).normalised
    return history_N


def hypervolumes(
    runs: Sequence[ArrayLike] | NDArray[np.float64], reference: Point, *, ideal: Point | None = None
) -> NDArray[np.float64]:
    """Normalised hypervolume of every run, shape [R].

    Args:
        runs: Per run, points of shape [N, 2]: (L0, delta_ce); an array of shape [R, N, 2] is one, too.
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        UserInputError: As for `hypervolume`.
    """
    values = [hypervolume(points_N2, reference, ideal=ideal).normalised for points_N2 in runs]
    return np.array(values, dtype=np.float64)


def inside(points_N2: ArrayLike, reference: Point) -> NDArray[np.float64]:
    """The finite points below the reference in both columns, shape [M, 2]."""
    points_N2 = as_points(points_N2)
    return points_N2[finite_rows(points_N2) & ~outside(points_N2, reference)]


def log_scaled(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """(log2 L0, delta_ce) of points whose L0 is above zero."""
    return np.column_stack([np.log2(points_N2[:, 0]), points_N2[:, 1]])


def box_area(reference: Point, ideal: Point) -> float:
    """Area between ideal and reference in octaves of L0 times the unit of delta_ce."""
    return (math.log2(reference[0]) - math.log2(ideal[0])) * (reference[1] - ideal[1])


def usable_ideal(reference: Point, ideal: Point | None) -> Point:
    """The ideal point that goes with a reference point.

    Args:
        reference: (L0, delta_ce) of the upper right corner.
        ideal: (L0, delta_ce) of the lower left corner; None stands for ``default_ideal(reference)``.

    Raises:
        UserInputError: The two are no corners of a box on (log2 L0, delta_ce).
    """
    _check_positive(reference)
    low = default_ideal(reference) if ideal is None else ideal
    _check_box(reference, low)
    return low


def _check_positive(reference: Point) -> None:
    if not (all(map(math.isfinite, reference)) and reference[0] > 0):
        raise UserInputError(
            f"The reference point (L0 {reference[0]}, delta_ce {reference[1]}) cannot be used.",
            "Give `objectives.reference` a finite L0 above zero and a finite delta_ce.",
        )


def _check_box(reference: Point, ideal: Point) -> None:
    if not (0 < ideal[0] < reference[0] and -math.inf < ideal[1] < reference[1]):
        raise UserInputError(
            f"The reference point (L0 {reference[0]:g}, delta_ce {reference[1]:g}) is not beyond the ideal point "
            f"(L0 {ideal[0]:g}, delta_ce {ideal[1]:g}).",
            "Give `objectives.reference` a larger L0 and a delta_ce above zero.",
        )
