"""From ranges of a search space to Optuna distributions, and evenly spread points inside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.space import Range

    Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Dimension:
    """One searched hyper-parameter.

    Numeric choices are searched as the index of the sorted list, so that a model of the objectives sees that 512 lies
    between 256 and 1024; Optuna then stores the index.

    Attributes:
        distribution: What Optuna samples.
        ordered: The sorted numeric choices, when the stored value is an index into them.
    """

    distribution: BaseDistribution
    ordered: Numbers | None = None

    def decode(self, stored: Any) -> Any:
        """The hyper-parameter's value from what Optuna stores."""
        return stored if self.ordered is None else self.ordered[stored]

    def encode(self, value: Any) -> Any:
        """What Optuna stores for a hyper-parameter's value."""
        return value if self.ordered is None else self.ordered.index(value)

    def at(self, unit: float) -> Any:
        """What Optuna would store for a point of [0, 1): equal lengths hold equal probability."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return dist.choices[min(int(unit * len(dist.choices)), len(dist.choices) - 1)]
        # a whole number owns half a unit on either side, as in Optuna's own sampling
        half = 0.5 if isinstance(dist, IntDistribution) else 0.0
        low, high = dist.low - half, dist.high + half
        value = low * (high / low) ** unit if dist.log else low + (high - low) * unit
        if half:
            value = math.floor(value + 0.5)
        return min(max(value, dist.low), dist.high)


@dataclass(frozen=True)
class Proposals:
    """The searched and the constant hyper-parameters of one architecture.

    Attributes:
        dimensions: Searched hyper-parameters, in the order of the search space.
        constants: Hyper-parameters with one value.
        seed: Seed of the Sobol sequence.
    """

    dimensions: dict[str, Dimension]
    constants: dict[str, Any]
    seed: int
    _points: list[list[float]] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def of(cls, ranges: Mapping[str, Range], seed: int) -> Proposals:
        """Sort ranges into searched and constant ones."""
        dimensions: dict[str, Dimension] = {}
        constants: dict[str, Any] = {}
        for name, searched in ranges.items():
            if isinstance(searched, ConstantRange):
                constants[name] = searched.value
            elif isinstance(searched, ChoiceRange) and len(searched.choices) == 1:
                constants[name] = searched.choices[0]
            else:
                dimensions[name] = _dimension(searched)
        return cls(dimensions, constants, seed)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Hyper-parameter to Optuna distribution."""
        return {name: dimension.distribution for name, dimension in self.dimensions.items()}

    def params(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """All named hyper-parameters from what Optuna stores."""
        searched = {name: dimension.decode(stored[name]) for name, dimension in self.dimensions.items()}
        return {**self.constants, **searched}

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna stores for named hyper-parameters; constants are not stored."""
        return {name: self.dimensions[name].encode(value) for name, value in values.items() if name in self.dimensions}

    def point(self, index: int) -> dict[str, Any]:
        """Point of a scrambled Sobol sequence, as Optuna stores it.

        Args:
            index: Position in the sequence, from 0; the same index gives the same point whatever the budget is.
        """
        if not self.dimensions:
            return {}
        if index >= len(self._points):
            self._points[:] = _sobol(len(self.dimensions), index + 1, self.seed)
        units = self._points[index]
        return {
            name: dimension.at(unit) for (name, dimension), unit in zip(self.dimensions.items(), units, strict=True)
        }


def _dimension(searched: Range) -> Dimension:
    if isinstance(searched, LogRange):
        if searched.integer:
            return Dimension(IntDistribution(int(searched.low), int(searched.high), log=True))
        return Dimension(FloatDistribution(float(searched.low), float(searched.high), log=True))
    if isinstance(searched, UniformRange):
        return Dimension(FloatDistribution(searched.low, searched.high))
    if isinstance(searched, IntRange):
        return Dimension(IntDistribution(searched.low, searched.high))
    assert isinstance(searched, ChoiceRange)
    numeric = [x for x in searched.choices if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numeric) < len(searched.choices):
        return Dimension(CategoricalDistribution(searched.choices))
    return Dimension(IntDistribution(0, len(numeric) - 1), tuple(sorted(numeric)))


def _sobol(dimensions: int, count: int, seed: int) -> list[list[float]]:
    """At least ``count`` points; a prefix does not depend on the count, because powers of two share one sequence."""
    from scipy.stats import qmc

    points = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(max(1, math.ceil(math.log2(count))))
    return [list(map(float, row)) for row in points]
