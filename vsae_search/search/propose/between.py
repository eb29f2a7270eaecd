"""A configuration half-way between two others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution


def halfway(
    distributions: Mapping[str, BaseDistribution], first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, Any]:
    """The middle of two configurations, each hyper-parameter on its own scale; words are taken from the first.

    Sparsity changes steadily with the hyper-parameter that sets it, and both neighbours of a gap in a frontier are well
    tuned, so that their middle lands in the gap and is well tuned too, without any model.

    Args:
        distributions: What Optuna samples.
        first: One configuration as Optuna stores it.
        second: Another one.
    """
    return {name: _middle(searched, first[name], second[name]) for name, searched in distributions.items()}


def _middle(searched: BaseDistribution, first: Any, second: Any) -> Any:
    if isinstance(searched, CategoricalDistribution):
        return first
    assert isinstance(searched, FloatDistribution | IntDistribution)
    value = math.sqrt(first * second) if searched.log else (first + second) / 2
    if isinstance(searched, IntDistribution):
        value = round(value)
    return min(max(value, searched.low), searched.high)
