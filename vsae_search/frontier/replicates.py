"""Replicated runs of one architecture's frontier: what confirmation measures and every statistic is computed from.

A *replicate* is one seed: every configuration of the architecture's frontier, trained again with that seed and
evaluated on data that the search never saw. Seed s gives one set of points, and the sets of different seeds are the
independent repetitions that bands, intervals and tests need. Points within a set are not independent of each other,
and neither are trials of a search: they were chosen by the noisy score that is reported.

What varies between replicates is training (initial weights, data order), with the configurations held fixed. What
another search would have found is not in it; that takes repeated searches.

Two architectures confirmed with the same seeds read the data in the same order, so their replicates are *paired*.

Shapes: R runs (seeds), N configurations, 2 columns (L0, delta_ce).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

Row = tuple[str, int, float | None, float | None]  # (configuration, seed, L0, delta_ce)


@dataclass(frozen=True, eq=False)
class Replicates:
    """One architecture's configurations, each trained with the same seeds.

    Attributes:
        architecture: Name of the architecture.
        seeds: One seed per run, all different.
        points_RN2: (L0, delta_ce) of every configuration in every run, shape [R, N, 2]; NaN where a run of a
            configuration diverged or is missing. A run without a single finite point still counts as a run.
        configurations: Name of each configuration (its uid in the search), all different.
    """

    architecture: str
    seeds: tuple[int, ...]
    points_RN2: NDArray[np.float64]
    configurations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points_RN2 = np.array(self.points_RN2, dtype=np.float64)  # a copy: nobody else can write to it
        if points_RN2.ndim != 3 or points_RN2.shape[2] != 2:
            raise ValueError(f"points must have shape [R, N, 2], not {list(points_RN2.shape)}")
        num_runs, num_configurations = points_RN2.shape[:2]
        names = self.configurations or tuple(str(index) for index in range(num_configurations))
        if len(self.seeds) != num_runs or len(names) != num_configurations:
            raise ValueError(
                f"points of shape {list(points_RN2.shape)} do not fit {len(self.seeds)} seeds and "
                f"{len(names)} configurations"
            )
        if len(set(self.seeds)) < num_runs or len(set(names)) < num_configurations:
            raise ValueError(f"{self.architecture}: a seed or a configuration is given twice")
        points_RN2.setflags(write=False)
        object.__setattr__(self, "points_RN2", points_RN2)
        object.__setattr__(self, "configurations", names)

    @property
    def num_runs(self) -> int:
        """Number of seeds R."""
        return len(self.seeds)

    def of_seeds(self, seeds: Sequence[int]) -> Replicates:
        """The runs of the given seeds, in that order.

        Raises:
            ValueError: There is no run of a seed.
        """
        rows = [self.seeds.index(seed) for seed in seeds]
        return Replicates(self.architecture, tuple(seeds), self.points_RN2[rows], self.configurations)


def replicates_from_rows(architecture: str, rows: Iterable[Row]) -> Replicates:
    """Collect the trials of a confirmation, in any order, into runs.

    Args:
        architecture: Name of the architecture.
        rows: (configuration, seed, L0, delta_ce) per retrained SAE; None (or NaN) for the numbers of one that
            diverged.

    Returns:
        Runs by rising seed, configurations in order of first appearance; what no row gives is NaN.

    Raises:
        ValueError: A configuration was trained twice with a seed.
    """
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for configuration, seed, l0, delta_ce in rows:
        if (configuration, seed) in found:
            raise ValueError(f"{architecture}: configuration {configuration!r} is given twice for seed {seed}")
        found[configuration, seed] = (np.nan if l0 is None else l0, np.nan if delta_ce is None else delta_ce)
    configurations = tuple(dict.fromkeys(configuration for configuration, _ in found))
    seeds = tuple(sorted({seed for _, seed in found}))
    points_RN2 = np.full((len(seeds), len(configurations), 2), np.nan)
    for (configuration, seed), point in found.items():
        points_RN2[seeds.index(seed), configurations.index(configuration)] = point
    return Replicates(architecture, seeds, points_RN2, configurations)


def shared_seeds(a: Replicates, b: Replicates) -> tuple[int, ...]:
    """Seeds that both architectures were trained with, rising."""
    return tuple(sorted(set(a.seeds) & set(b.seeds)))
