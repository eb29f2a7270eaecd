"""What dependent features cannot do: bounds that follow from the probabilities alone.

Two features that are present with probabilities p and q can be correlated only within the Fréchet bounds. With the odds
``a = p / (1 - p)`` and ``b = q / (1 - q)``, ``a <= b``, their phi coefficient is at most ``sqrt(a / b)`` and at least
``-min(sqrt(a b), 1 / sqrt(a b))``, which for equal probabilities below one half is ``-p / (1 - p)``.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vsae_search.space.features import FeatureSpec
    from vsae_search.space.strict import Loc, Refusal

_SLACK = 1e-9  # rounding of bounds that are met exactly, such as 4 x 0.25


def check_sets(spec: FeatureSpec) -> list[Refusal]:
    """Refuse sets that need more features than there are, and exclusive members that are too frequent."""
    used = 0
    for index, group in enumerate(spec.sets):
        used += group.size * group.count
        if used > spec.count:
            text = f"the sets up to this one need {used} features, and there are {spec.count}"
            return [(("sets", index), text, None)]
    refusals: list[Refusal] = []
    probabilities = spec.probabilities()
    start = 0
    for index, group in enumerate(spec.sets):
        stop = start + group.size * group.count
        if group.kind == "anticorrelated" and group.strength > 0:
            totals = (sum(probabilities[i : i + group.size]) for i in range(start, stop, group.size))
            if (total := max(totals)) > 1 + _SLACK:
                text = (
                    f"{group.size} anticorrelated features cannot have probabilities that add up to {total:.4g}; "
                    f"at most one is present at a time, so size x probability is at most 1 "
                    f"(probability at most {1 / group.size:.4g})"
                )
                refusals.append((("sets", index), text, None))
        start = stop
    return refusals


def check_copula(spec: FeatureSpec) -> list[Refusal]:
    """Refuse a copula that does not fit the features outside the sets, or asks for an impossible correlation."""
    copula, rest = spec.copula, spec.count - spec.num_in_sets
    if copula is None:
        return []
    if rest < 2:
        text = f"a copula needs at least two features outside the sets, and there {'is 1' if rest == 1 else 'are none'}"
        return [(("copula",), text, None)]
    name = "rho" if copula.rho is not None else "phi"
    value = getattr(copula, name)
    if isinstance(value, tuple) and len(value) != rest:
        text = f"the matrix is {len(value)} x {len(value)}, and {rest} features are outside the sets"
        return [(("copula", name), text, None)]
    if copula.block_size is not None and copula.block_size > rest:
        text = f"a block of {copula.block_size} is larger than the {rest} features outside the sets"
        return [(("copula", "block_size"), text, copula.block_size)]
    size = copula.block_size or rest
    if not isinstance(value, tuple) and name == "rho" and value < -1 / (size - 1) - _SLACK:
        text = f"{size} variables cannot all be correlated by {value} with each other; the bound is -1 / (size - 1)"
        return [(("copula", "rho"), f"{text} = {-1 / (size - 1):.4g}", value)]
    return _check_phi(spec.probabilities()[-rest:], value, size) if name == "phi" else []


def phi_bounds(p: float, q: float) -> tuple[float, float]:
    """Smallest and largest phi coefficient of two features with probabilities ``p`` and ``q``, both below 1."""
    odds_p, odds_q = p / (1 - p), q / (1 - q)
    product, ratio = sqrt(odds_p * odds_q), sqrt(odds_p / odds_q)
    return -min(product, 1 / product), min(ratio, 1 / ratio)


def _check_phi(probabilities: Sequence[float], phi: float | tuple[tuple[float, ...], ...], size: int) -> list[Refusal]:
    if max(probabilities) >= 1:
        return [(("copula", "phi"), "a feature that is always present is correlated with nothing; use rho", None)]
    if isinstance(phi, tuple):
        pairs = ((("copula", "phi", i, j), phi[i][j], i, j) for i in range(len(phi)) for j in range(i + 1, len(phi)))
        found: list[tuple[Loc, float, float, float]] = [
            (loc, value, probabilities[i], probabilities[j]) for loc, value, i, j in pairs
        ]
    else:
        found = [(("copula", "phi"), phi, p, q) for p, q in _extreme_pairs(probabilities, size)]
    refusals: list[Refusal] = []
    for loc, value, p, q in found:
        low, high = phi_bounds(p, q)
        if value < low - _SLACK:
            bound = f"-p/(1-p) = {low:.4g}" if p == q <= 0.5 else f"{low:.4g}"
            text = f"features with the probabilities {p:.4g} and {q:.4g} cannot have phi = {value}"
            refusals.append((loc, f"{text}; the lower bound is {bound}", value))
        elif value > high + _SLACK:
            text = f"features with the probabilities {p:.4g} and {q:.4g} cannot have phi = {value}"
            refusals.append((loc, f"{text}; the upper bound is {high:.4g}", value))
    return refusals if isinstance(phi, tuple) else refusals[:1]


def _extreme_pairs(probabilities: Sequence[float], size: int) -> Iterator[tuple[float, float]]:
    """The pairs of every block whose bounds are tightest: the two rarest, the two most frequent, the extremes."""
    for start in range(0, len(probabilities), size):
        block = sorted(probabilities[start : start + size])
        if len(block) >= 2:
            yield block[0], block[1]
            yield block[-2], block[-1]
            yield block[0], block[-1]
