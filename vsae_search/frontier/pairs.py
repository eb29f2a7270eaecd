"""From runs to corrected p-values: which runs meet which, what they can show, and what is refused.

Which runs are paired, which pairs are refused and how many tests are corrected for depends on numbers of seeds and on
what was asked for, never on what the runs show: otherwise the p-values would not mean what they say.

Shapes: R and S runs of the two architectures of a pair, E endpoints.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vsae_search.frontier.permutation import holm, holm_families, paired_p, smallest_p, unpaired_p
from vsae_search.frontier.replicates import shared_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.frontier.replicates import Replicates

Correction = Literal["joint", "holm"]
Pairing = Literal["auto", "seeds", "none"]


@dataclass(frozen=True)
class Rules:
    """What was asked for, before any run is looked at.

    Attributes:
        correction: How p-values are corrected over pairs and endpoints.
        pairing: Whether runs of a shared seed are compared with each other.
        alpha: Probability of a false claim over all pairs and endpoints.
        num_endpoints: Endpoints of each pair.
        seed: Of the draw of rearrangements, where there are too many to enumerate.
    """

    correction: Correction
    pairing: Pairing
    alpha: float
    num_endpoints: int
    seed: int

    @property
    def tests_per_pair(self) -> int:
        """Tests that Holm's correction counts for every pair."""
        return 1 if self.correction == "joint" else self.num_endpoints


@dataclass(frozen=True, eq=False)
class Pair:
    """Two architectures' values of every endpoint, ready to compare.

    Attributes:
        a: First architecture.
        b: Second architecture.
        paired: Whether row r of both arrays has the same seed.
        num_shared: Seeds that both were trained with.
        values_RE: Values of the first architecture; infinity where a run does not reach the endpoint.
        others_SE: Values of the second one.
    """

    a: str
    b: str
    paired: bool
    num_shared: int
    values_RE: NDArray[np.float64]
    others_SE: NDArray[np.float64]

    @property
    def testable_E(self) -> NDArray[np.bool_]:
        """Endpoints that every run of both reaches; symmetric in the two, so that the choice does not bias p."""
        both = np.concatenate([self.values_RE, self.others_SE])
        testable_E: NDArray[np.bool_] = np.isfinite(both).all(axis=0) & (len(both) > 0)
        return testable_E

    @property
    def floor(self) -> float:
        """Smallest uncorrected p that the numbers of runs can reach."""
        return smallest_p(len(self.values_RE), len(self.others_SE), paired=self.paired)


def paired_or_not(arms: Sequence[tuple[Replicates, Replicates]], rules: Rules) -> list[bool]:
    """Which pairs of architectures are compared seed by seed."""
    shared = [len(shared_seeds(a, b)) for a, b in arms]
    paired = [rules.pairing != "none" and count > 0 for count in shared]
    if rules.pairing != "auto":
        return paired
    dealt = [smallest_p(a.num_runs, b.num_runs, paired=False) for a, b in arms]
    by_seed = [
        smallest_p(count, count, paired=True) if is_paired else floor
        for is_paired, count, floor in zip(paired, shared, dealt, strict=True)
    ]
    best = zip(paired, best_case(by_seed, rules), best_case(dealt, rules), strict=True)
    return [is_paired and not (seeds > rules.alpha >= deals) for is_paired, seeds, deals in best]


def best_case(floors: Sequence[float], rules: Rules) -> list[float]:
    """Corrected p of every pair if each of its tests had the smallest p that its runs can reach."""
    repeated = np.repeat(np.asarray(floors, dtype=np.float64), rules.tests_per_pair)
    corrected: list[float] = holm(repeated)[:: max(1, rules.tests_per_pair)].tolist()
    return corrected


def corrected_p(pairs: Sequence[Pair], floors: Sequence[float], rules: Rules) -> list[list[float | None]]:
    """Corrected p of every pair and endpoint; None where seeds are too few or a run does not reach.

    A pair that is refused leaves the correction: that it has too few seeds says nothing about what they show. With
    Holm's correction, an endpoint that is not testable stays in it.

    Args:
        pairs: The pairs of architectures.
        floors: Smallest corrected p of each, from `best_case`.
        rules: What was asked for.
    """
    tested = [pair for pair, floor in zip(pairs, floors, strict=True) if floor <= rules.alpha]
    raw = [_raw(pair, rules) for pair in tested]
    families = raw if rules.correction == "joint" else [p_E[[index]] for p_E in raw for index in range(len(p_E))]
    flat = iter(np.concatenate([np.empty(0), *holm_families(families)]).tolist())
    result: list[list[float | None]] = []
    for pair, floor in zip(pairs, floors, strict=True):
        given = [next(flat) if floor <= rules.alpha else None for _ in range(rules.num_endpoints)]
        result.append([p if testable else None for p, testable in zip(given, pair.testable_E, strict=True)])
    return result


def too_few_seeds(pair: Pair, floor: float, num_pairs: int, rules: Rules) -> str:
    """Why a pair is refused, and how many seeds would be enough."""
    num_runs, num_others = len(pair.values_RE), len(pair.others_SE)
    if pair.paired:
        runs = f"{num_runs} seed{'s' if num_runs != 1 else ''} shared by both"
    else:
        runs = f"{num_runs} against {num_others} runs"
    num_tests = num_pairs * rules.tests_per_pair
    corrected = f" ({floor:.2g} corrected for {num_tests} tests)" if num_tests > 1 else ""
    by_seed = pair.paired and rules.pairing == "seeds"
    needed = next(n for n in itertools.count(2) if _floor_of(n, by_seed) * num_tests <= rules.alpha)
    return (
        f"{runs}: the smallest possible p is {pair.floor:.2g}{corrected}, above {rules.alpha:g}; "
        f"it takes {needed} seeds of each architecture"
    )


def not_reached(pair: Pair, index: int, l0: float | None) -> str:
    """Why an endpoint is not tested: how many runs of each architecture have no SAE that sparse."""
    parts = [
        f"{int((~np.isfinite(values_RE[:, index])).sum())} of {len(values_RE)} runs of {name}"
        for name, values_RE in ((pair.a, pair.values_RE), (pair.b, pair.others_SE))
    ]
    return f"{' and '.join(parts)} have no SAE with an L0 of at most {l0:g}"


def _raw(pair: Pair, rules: Rules) -> NDArray[np.float64]:
    """P-values of a pair's endpoints, corrected for their number if they are tested together; 1 if not testable."""
    p_E = np.ones(rules.num_endpoints)
    testable = np.flatnonzero(pair.testable_E)
    for group in [testable] if rules.correction == "joint" else testable[:, None]:
        values, others = pair.values_RE[:, group], pair.others_SE[:, group]
        if pair.paired:
            p_E[group] = paired_p(values - others, seed=rules.seed)
        else:
            p_E[group] = unpaired_p(values, others, seed=rules.seed)
    return p_E


def _floor_of(num_runs: int, by_seed: bool) -> float:
    """Smallest p of so many runs per architecture if all rearrangements are enumerated."""
    return 2 / 2**num_runs if by_seed else 2 / math.comb(2 * num_runs, num_runs)
