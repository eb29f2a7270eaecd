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
from vsae_search.frontier.dominance import as_points, finite_rows

if TYPE_CHECKING:
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
    """

    value: float
    normalised: float
    num_points: int
    num_non_finite: int
    num_outside: int
    num_clipped: int


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
        UserInputError: The reference is not finite or not beyond the ideal in both columns, or the ideal L0 is zero.
    """
    points_N2 = as_points(points_N2)
    _check_positive(reference)
    low = default_ideal(reference) if ideal is None else ideal
    _check_box(reference, low)
    finite_N = finite_rows(points_N2)
    outside_N = outside(points_N2, reference)
    inside_N2 = points_N2[finite_N & ~outside_N]
    clipped_N2 = np.maximum(inside_N2, np.asarray(low))
    corner = (math.log2(reference[0]), reference[1])
    scaled_N2 = np.column_stack([np.log2(clipped_N2[:, 0]), clipped_N2[:, 1]])
    area = float(moocore.hypervolume(scaled_N2, ref=corner)) if len(scaled_N2) else 0.0
    return Hypervolume(
        value=area,
        normalised=min(area / ((corner[0] - math.log2(low[0])) * (corner[1] - low[1])), 1.0),
        num_points=len(points_N2),
        num_non_finite=int((~finite_N).sum()),
        num_outside=int(outside_N.sum()),
        num_clipped=int((inside_N2 < np.asarray(low)).any(axis=1).sum()),
    )


def _check_positive(reference: Point) -> None:
    if not (all(map(math.isfinite, reference)) and reference[0] > 0):
        raise UserInputError(
            f"The reference point (L0 {reference[0]}, delta_ce {reference[1]}) cannot be used.",
            "Give `objectives.reference` a finite L0 above zero and a finite delta_ce.",
        )


def _check_box(reference: Point, ideal: Point) -> None:
    if not (0 < ideal[0] < reference[0] and ideal[1] < reference[1]):
        raise UserInputError(
            f"The reference point (L0 {reference[0]:g}, delta_ce {reference[1]:g}) is not beyond the ideal point "
            f"(L0 {ideal[0]:g}, delta_ce {ideal[1]:g}).",
            "Give `objectives.reference` a larger L0 and a delta_ce above zero.",
        )
