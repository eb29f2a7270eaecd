"""How often comparisons claim a difference where there is none, and how often they miss one that is there.

Simulated confirmations: ten SAEs per run on a frontier of plausible shape, noise per SAE, noise per run, and noise of
the seed that is shared by architectures. Limits are alpha plus three standard errors of so many repetitions.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from vsae_search.frontier import Replicates, compare, holm_families, paired_p

REFERENCE = (512.0, 0.5)
ALPHA = 0.05
LEVELS_K = 2.0 ** np.linspace(2.5, 8.5, 10)


def confirmation(generator, shifts, num_seeds, shared):
    """One confirmation: an architecture per shift; ``shared`` is the correlation that seeds cause between them."""
    of_seed = generator.normal(size=num_seeds)
    arms = []
    for index, shift in enumerate(shifts):
        of_run = math.sqrt(shared) * of_seed + math.sqrt(1 - shared) * generator.normal(size=num_seeds)
        l0 = LEVELS_K * np.exp(generator.normal(0, 0.02, (num_seeds, 10)))
        spread = 0.06 * of_run[:, None] + generator.normal(0, 0.03, (num_seeds, 10))
        delta_ce = 1.2 / np.sqrt(LEVELS_K) * np.exp(spread + shift)
        arms.append(Replicates(f"a{index}", tuple(range(num_seeds)), np.stack([l0, delta_ce], axis=-1)))
    return arms


def limit(repetitions):
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / repetitions)


@pytest.mark.parametrize(
    ("num_arms", "num_seeds", "shared", "paired"),
    [(2, 6, 0.5, True), (3, 6, 0.0, False), (3, 6, 0.5, False), (3, 7, 0.3, True)],
)
def test_equal_architectures_are_seldom_called_different(num_arms, num_seeds, shared, paired):
    generator, repetitions, false = np.random.default_rng(0), 120, 0
    for _ in range(repetitions):
        found = compare(confirmation(generator, [0.0] * num_arms, num_seeds, shared), REFERENCE, l0s=(8, 32, 128))
        assert {c.paired for c in found} == {paired}
        assert all(c.p_value is not None for c in found)
        false += any(c.significant for c in found)
    assert false / repetitions <= limit(repetitions)


def test_a_planted_difference_is_found_and_nothing_else():
    generator, repetitions, right, false = np.random.default_rng(1), 60, 0, 0
    for _ in range(repetitions):
        found = compare(confirmation(generator, [0.0, 0.0, 0.3], 6, 0.3), REFERENCE, l0s=(8, 32, 128))
        right += all(c.winner == c.a for c in found if c.b == "a2")
        false += any(c.significant for c in found if c.b != "a2")
    assert right / repetitions >= 0.95
    assert false / repetitions <= limit(repetitions)


def test_one_pair_of_six_seeds_suffices_for_a_clear_difference():
    generator = np.random.default_rng(2)
    found = [compare(confirmation(generator, [0.0, 0.2], 6, 0.5), REFERENCE, l0s=(8, 32, 128)) for _ in range(40)]
    assert np.mean([all(c.winner == "a0" for c in pair) for pair in found]) >= 0.85


def test_true_endpoints_stay_protected_beside_false_ones():
    """Two families, one enormous difference in each: the others are still wrong at most alpha of the time."""
    generator, repetitions, false, found = np.random.default_rng(3), 2000, 0, 0
    for _ in range(repetitions):
        families = [paired_p(generator.normal(0, 1, (8, 4)) + np.array([50.0, 0, 0, 0])) for _ in range(2)]
        corrected = holm_families(families)
        found += all(p_E[0] <= ALPHA for p_E in corrected)
        false += any((p_E[1:] <= ALPHA).any() for p_E in corrected)
    assert found == repetitions
    assert false / repetitions <= limit(repetitions)
