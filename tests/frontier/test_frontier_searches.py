"""Two searches: equal ones are seldom called different, different ones are, and small cases agree with enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vsae_search.frontier import hypervolume, search_p
from vsae_search.frontier.searches import NUM_DEALT

REFERENCE, IDEAL = (64.0, 1.0), (1.0, 0.0)


def searched(generator, count=12, height=1.0):
    l0 = 2.0 ** generator.uniform(0, 6, count)
    return np.column_stack([l0, height * 0.6 / np.sqrt(l0) * np.exp(generator.normal(0, 0.4, count))])


def test_a_small_case_agrees_with_all_its_deals():
    generator = np.random.default_rng(4)
    a, b = searched(generator, 4), searched(generator, 4, height=1.6)
    pooled = np.concatenate([a, b])

    def gap(own):
        rest = [index for index in range(8) if index not in own]
        return abs(
            np.subtract(*(hypervolume(pooled[list(part)], REFERENCE, ideal=IDEAL).normalised for part in (own, rest)))
        )

    deals = [gap(own) for own in itertools.combinations(range(8), 4)]
    exact = np.mean([deal >= deals[0] - 1e-9 for deal in deals])
    found = search_p(a, b, REFERENCE, ideal=IDEAL)[0]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / NUM_DEALT))


def test_searches_that_differ_in_luck_alone_are_seldom_called_different():
    generator, repetitions = np.random.default_rng(0), 24
    p = [
        search_p(searched(generator), searched(generator), REFERENCE, ideal=IDEAL, l0s=(4, 16))
        for _ in range(repetitions)
    ]
    assert (np.stack(p) <= 0.05).any(axis=1).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)


def test_a_search_that_is_worse_everywhere_is_found():
    generator = np.random.default_rng(1)
    for _ in range(4):
        p = search_p(searched(generator), searched(generator, height=4.0), REFERENCE, ideal=IDEAL, l0s=(8, 32))
        assert p[0] <= 0.05
        assert p.max() < 1.0


def test_a_search_without_trials_cannot_differ():
    empty = np.empty((0, 2))
    assert search_p(empty, [[2.0, 0.5]], REFERENCE, l0s=(8,)).tolist() == [1.0, 1.0]
    assert search_p([[2.0, np.nan]], [[2.0, 0.5]], REFERENCE).tolist() == [1.0]


def test_an_l0_that_nobody_attains_is_no_difference():
    assert search_p([[30.0, 0.1]] * 3, [[40.0, 0.2]] * 3, REFERENCE, l0s=(8,))[1] == 1.0
