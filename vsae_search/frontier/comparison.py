"""Comparison of architectures over replicated runs: effect size first, then a p-value or the reason for none.

Endpoints of a pair are the normalised hypervolume and delta_ce at matched L0. Runs of shared seeds are paired and
tested by flipping signs; without shared seeds, runs are dealt out anew. Few pairs have few sign flips, so where the
flips cannot reach alpha and the deals can, runs of shared seeds are dealt out as if they were independent. That is
exact if a seed does not matter, too careful if it moves both architectures the same way, and too bold only if it
moves them in opposite ways. Which test is used depends on numbers of seeds alone.

A p-value is corrected so that the probability of any false claim, over all pairs and all endpoints together, is at
most alpha:

* ``joint`` (default): the endpoints of a pair are tested together (step-down max-T), and Holm's correction runs over
  the pairs. 6 seeds can reach 0.031 paired, and 0.0022 dealt out, at all endpoints of a pair together: enough for
  one pair, and for 23.
* ``holm``: Holm's correction over all pairs times all endpoints: enough for a single endpoint, and for 23.

Where the number of seeds could not reach alpha whatever the data, no p-value is given, and ``why_no_p`` says so.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vsae_search.frontier.effects import Better, hodges_lehmann, superiority
from vsae_search.frontier.hypervolume import hypervolumes
from vsae_search.frontier.intervals import Interval, difference_interval, mean_interval
from vsae_search.frontier.matched import MATCHED_L0, Reading, read_frontiers
from vsae_search.frontier.pairs import (
    Correction,
    Pair,
    Pairing,
    Rules,
    best_case,
    corrected_p,
    not_reached,
    paired_or_not,
    too_few_seeds,
)
from vsae_search.frontier.replicates import Replicates, shared_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.frontier.hypervolume import Point


@dataclass(frozen=True)
class Comparison:
    """Two architectures at one endpoint.

    Attributes:
        a: First architecture.
        b: Second architecture.
        endpoint: ``hypervolume`` (normalised, higher is better) or ``delta_ce`` (lower is better).
        l0: The matched L0; None for the hypervolume.
        paired: Whether runs are paired by seed in effect sizes, interval and test.
        num_shared: Seeds that both architectures were trained with.
        num_runs_a: Runs of the first architecture that are compared; paired, the number of pairs.
        num_runs_b: Runs of the second one.
        mean_a: Mean of the first architecture's compared runs; None unless every one reaches the L0.
        mean_b: The same for the second.
        difference: ``mean_a - mean_b``; None unless both exist.
        interval: t interval of the difference, for this endpoint alone; None where there is no difference to give.
        hodges_lehmann: Typical difference, first minus second, little moved by one odd run.
        superiority: Probability that a run of the first beats one of the second (paired: of the same seed), ties
            half; a run that does not reach loses to one that does. None without runs.
        p_value: Two-sided permutation p, corrected over all pairs and endpoints of the call; None if not given.
        why_no_p: Why there is no p-value; empty if there is one.
        smallest_p: Smallest corrected p that these numbers of seeds can reach in this call.
        alpha: Probability of a false claim that was asked for, over the whole call.
    """

    a: str
    b: str
    endpoint: Literal["hypervolume", "delta_ce"]
    l0: float | None
    paired: bool
    num_shared: int
    num_runs_a: int
    num_runs_b: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    interval: Interval | None
    hodges_lehmann: float | None
    superiority: float | None
    p_value: float | None
    why_no_p: str
    smallest_p: float
    alpha: float

    @property
    def better(self) -> Better:
        """Which direction of the endpoint is better."""
        return "higher" if self.endpoint == "hypervolume" else "lower"

    @property
    def cliffs_delta(self) -> float | None:
        """-1 (the second always better) to 1 (the first always better); 0 is no difference."""
        return None if self.superiority is None else 2 * self.superiority - 1

    @property
    def significant(self) -> bool:
        """Whether a difference may be claimed; False also where no p-value is given."""
        return self.p_value is not None and self.p_value <= self.alpha

    @property
    def winner(self) -> str | None:
        """The better architecture where a difference may be claimed, else None."""
        if not self.significant or not self.difference:
            return None
        return self.a if (self.difference > 0) == (self.better == "higher") else self.b


def compare(
    replicates: Sequence[Replicates],
    reference: Point | None,
    *,
    ideal: Point | None = None,
    l0s: Sequence[float] = MATCHED_L0,
    reading: Reading = "staircase",
    pairs: Sequence[tuple[str, str]] | None = None,
    correction: Correction = "joint",
    pairing: Pairing = "auto",
    alpha: float = 0.05,
    coverage: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare architectures pairwise at every endpoint.

    Args:
        replicates: Runs of each architecture, with different names.
        reference: (L0, delta_ce) of the reference point; None leaves the hypervolume out.
        ideal: (L0, delta_ce) of the ideal point; None stands for ``default_ideal(reference)``.
        l0s: Matched values of L0, fixed before the runs were looked at.
        reading: How frontiers are read between two points.
        pairs: Names to compare, for example each against a baseline; None compares all with all. Fewer pairs need
            fewer seeds, but they have to be chosen before the runs are looked at.
        correction: How p-values are corrected over pairs and endpoints.
        pairing: ``seeds`` pairs runs of shared seeds; ``none`` treats all runs as independent; ``auto`` pairs where
            the pairs can reach alpha.
        alpha: Probability of a false claim over the whole call.
        coverage: Nominal coverage of the intervals, each for itself.
        seed: Of the draw of rearrangements, where there are too many to enumerate.

    Returns:
        One comparison per pair and endpoint, in the order of pairs and with the hypervolume first.

    Raises:
        ValueError: Two architectures have the same name, or a pair is given twice or is an architecture with itself.
        KeyError: A pair names an unknown architecture.
        UserInputError: The reference point cannot be used.
    """
    named = {runs.architecture: runs for runs in replicates}
    names = list(itertools.combinations(named, 2)) if pairs is None else list(pairs)
    if len(named) < len(replicates) or len({frozenset(pair) for pair in names if pair[0] != pair[1]}) < len(names):
        raise ValueError("an architecture or a pair of architectures is given twice")
    rules = Rules(correction, pairing, alpha, len(l0s) + (reference is not None), seed)
    if not rules.num_endpoints:
        return ()
    compared = dict.fromkeys(itertools.chain(*names))
    tables = {name: _endpoints(named[name], reference, ideal, l0s, reading) for name in compared}
    endpoints: list[float | None] = [*([] if reference is None else [None]), *l0s]
    return _compare_all([(named[a], named[b]) for a, b in names], tables, endpoints, rules, coverage)


def _compare_all(
    arms: Sequence[tuple[Replicates, Replicates]],
    tables: dict[str, NDArray[np.float64]],
    endpoints: Sequence[float | None],
    rules: Rules,
    coverage: float,
) -> tuple[Comparison, ...]:
    ready = [
        _pair(*arm, tables, by_seed=by_seed) for arm, by_seed in zip(arms, paired_or_not(arms, rules), strict=True)
    ]
    floors = best_case([pair.floor for pair in ready], rules)
    found = zip(ready, corrected_p(ready, floors, rules), floors, strict=True)
    return tuple(
        _comparison(pair, index, l0, coverage, p_value=p_E[index], why_no_p=why, smallest_p=floor, alpha=rules.alpha)
        for pair, p_E, floor in found
        for index, l0 in enumerate(endpoints)
        for why in [_why(pair, index, l0, floor, len(ready), rules) if p_E[index] is None else ""]
    )


def _endpoints(
    replicates: Replicates, reference: Point | None, ideal: Point | None, l0s: Sequence[float], reading: Reading
) -> NDArray[np.float64]:
    """Every endpoint of every run, shape [R, E]; the hypervolume first if there is a reference point."""
    values_RE = read_frontiers(replicates.points_RN2, l0s, reading=reading)
    if reference is None:
        return values_RE
    return np.column_stack([hypervolumes(replicates.points_RN2, reference, ideal=ideal), values_RE])


def _pair(a: Replicates, b: Replicates, tables: dict[str, NDArray[np.float64]], *, by_seed: bool) -> Pair:
    shared = shared_seeds(a, b)
    values_RE, others_SE = tables[a.architecture], tables[b.architecture]
    if by_seed:
        values_RE = values_RE[[a.seeds.index(seed) for seed in shared]]
        others_SE = others_SE[[b.seeds.index(seed) for seed in shared]]
    return Pair(a.architecture, b.architecture, by_seed, len(shared), values_RE, others_SE)


def _why(pair: Pair, index: int, l0: float | None, floor: float, num_pairs: int, rules: Rules) -> str:
    if floor > rules.alpha:
        return too_few_seeds(pair, floor, num_pairs, rules)
    return not_reached(pair, index, l0)


def _comparison(
    pair: Pair,
    index: int,
    l0: float | None,
    coverage: float,
    *,
    p_value: float | None,
    why_no_p: str,
    smallest_p: float,
    alpha: float,
) -> Comparison:
    values_R, others_S, testable = pair.values_RE[:, index], pair.others_SE[:, index], bool(pair.testable_E[index])
    means = [float(group.mean()) if len(group) and np.isfinite(group).all() else None for group in (values_R, others_S)]
    interval = None
    if testable and pair.paired:
        interval = mean_interval(values_R - others_S, coverage=coverage, method="paired student t")
    elif testable:
        interval = difference_interval(values_R, others_S, coverage=coverage)
    return Comparison(
        a=pair.a,
        b=pair.b,
        endpoint="hypervolume" if l0 is None else "delta_ce",
        l0=l0,
        paired=pair.paired,
        num_shared=pair.num_shared,
        num_runs_a=len(values_R),
        num_runs_b=len(others_S),
        mean_a=means[0],
        mean_b=means[1],
        difference=None if means[0] is None or means[1] is None else means[0] - means[1],
        interval=interval,
        hodges_lehmann=hodges_lehmann(values_R, others_S, paired=pair.paired) if testable else None,
        superiority=superiority(values_R, others_S, "higher" if l0 is None else "lower", paired=pair.paired),
        p_value=p_value,
        why_no_p=why_no_p,
        smallest_p=smallest_p,
        alpha=alpha,
    )
