"""Optimism of a search: how much better configurations look in the search than when they are trained again.

A frontier holds the trials whose noisy scores came out best, so their scores are too good (the winner's curse). The
gap is *search minus confirmed*: negative for delta_ce, and positive for the hypervolume, where the search looked
better than it was. Intervals are over seeds, given the scores of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.frontier.dominance import as_points
from vsae_search.frontier.hypervolume import hypervolume, hypervolumes
from vsae_search.frontier.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from vsae_search.frontier.hypervolume import Point
    from vsae_search.frontier.replicates import Replicates


@dataclass(frozen=True)
class Gap:
    """Search score minus confirmed score of one quantity.

    Attributes:
        search: Score in the search; None if it was not finite.
        confirmed: Mean over seeds; None if no seed gave a number.
        gap: ``search - confirmed``.
        interval: t interval of the gap over seeds; None with fewer than two.
        num_runs: Seeds behind it.
    """

    search: float | None
    confirmed: float | None
    gap: float | None
    interval: Interval | None
    num_runs: int


@dataclass(frozen=True)
class Optimism:
    """How much the search flattered one architecture.

    Attributes:
        architecture: Name of the architecture.
        configurations: Names of the configurations.
        l0: Per configuration, gap of L0.
        delta_ce: Per configuration, gap of delta_ce, over the seeds in which it did not diverge.
        mean_delta_ce: Gap of the mean over configurations, which every seed measures once; of the configurations
            that have a score in the search and in every seed. None if there is none.
        num_in_mean: Configurations in that mean.
        hypervolume: Gap of the normalised hypervolume of all configurations together; None without a reference.
    """

    architecture: str
    configurations: tuple[str, ...]
    l0: tuple[Gap, ...]
    delta_ce: tuple[Gap, ...]
    mean_delta_ce: Gap | None
    num_in_mean: int
    hypervolume: Gap | None


def optimism(
    search_N2: ArrayLike,
    replicates: Replicates,
    reference: Point | None,
    *,
    ideal: Point | None = None,
    coverage: float = 0.95,
) -> Optimism:
    """Compare the scores of the search with those of the confirmation.

    Args:
        search_N2: (L0, delta_ce) of every configuration in the search, in the order of ``replicates``.
        replicates: The same configurations, trained again.
        reference: (L0, delta_ce) of the reference point; None leaves the hypervolume out.
        ideal: (L0, delta_ce) of the ideal point; None stands for ``default_ideal(reference)``.
        coverage: Nominal coverage of the intervals.

    Raises:
        ValueError: The number of configurations differs.
        UserInputError: The reference point cannot be used.
    """
    search_N2, points_RN2 = as_points(search_N2), replicates.points_RN2
    if len(search_N2) != len(replicates.configurations):
        raise ValueError(f"{len(search_N2)} scores for {len(replicates.configurations)} configurations")
    complete_N = np.isfinite(search_N2).all(axis=1) & np.isfinite(points_RN2).all(axis=(0, 2))
    complete_N &= bool(replicates.num_runs)
    finite_RN2 = np.where(np.isfinite(points_RN2).all(axis=2, keepdims=True), points_RN2, np.nan)
    l0, delta_ce = (
        tuple(
            _gap(float(search), confirmed_R, coverage)
            for search, confirmed_R in zip(search_N2[:, column], finite_RN2[:, :, column].T, strict=True)
        )
        for column in (0, 1)
    )
    mean_gap, area_gap = None, None
    if complete_N.any():
        means_R = points_RN2[:, complete_N, 1].mean(axis=1)
        mean_gap = _gap(float(search_N2[complete_N, 1].mean()), means_R, coverage)
    if reference is not None:
        found = hypervolume(search_N2, reference, ideal=ideal).normalised
        area_gap = _gap(found, hypervolumes(points_RN2, reference, ideal=ideal), coverage)
    return Optimism(
        architecture=replicates.architecture,
        configurations=replicates.configurations,
        l0=l0,
        delta_ce=delta_ce,
        mean_delta_ce=mean_gap,
        num_in_mean=int(complete_N.sum()),
        hypervolume=area_gap,
    )


def _gap(search: float, confirmed_R: NDArray[np.float64], coverage: float) -> Gap:
    finite_R = confirmed_R[np.isfinite(confirmed_R)]
    if not np.isfinite(search):
        return Gap(None, None, None, None, len(finite_R))
    if not len(finite_R):
        return Gap(search, None, None, None, 0)
    confirmed = float(finite_R.mean())
    return Gap(
        search=search,
        confirmed=confirmed,
        gap=search - confirmed,
        interval=mean_interval(search - finite_R, coverage=coverage),
        num_runs=len(finite_R),
    )
