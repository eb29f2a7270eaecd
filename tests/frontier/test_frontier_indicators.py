from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsae_search.frontier import epsilon_additive, igd_plus, pooled_frontier, staircase

REFERENCE, IDEAL = (64.0, 2.0), (1.0, 0.0)  # 6 octaves times 2

l0 = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 64.0, np.nan]), st.floats(0.5, 70))
delta = st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 2.0, np.inf]), st.floats(-0.1, 2.2))
points_strategy = st.lists(st.tuples(l0, delta), max_size=7)


def boxed(points, scale=(1.0, 1.0)):
    kept = [p for p in points if np.isfinite(p).all() and p[0] < 64 and p[1] < 2]
    scaled = [(math.log2(max(x, 1.0)) / scale[0], max(y, 0.0) / scale[1]) for x, y in kept]
    return [p for p in scaled if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in scaled)]


def brute_epsilon(points, others):
    return max(min(max(p[0] - z[0], p[1] - z[1]) for p in points) for z in others)


def brute_igd_plus(points, others):
    others = sorted(set(others))
    return np.mean([min(math.hypot(max(p[0] - z[0], 0), max(p[1] - z[1], 0)) for p in points) for z in others])


@settings(max_examples=80, deadline=None)
@given(points_strategy, points_strategy)
def test_both_match_brute_force_in_both_units(points, others):
    found = epsilon_additive(points, others, REFERENCE), igd_plus(points, others, REFERENCE)
    if not (boxed(points) and boxed(others)):
        assert found == (None, None)
        return
    for indicator, brute in zip(found, (brute_epsilon, brute_igd_plus), strict=True):
        assert indicator.raw == pytest.approx(brute(boxed(points), boxed(others)), abs=1e-9)
        scale = (6.0, 2.0)
        assert indicator.normalised == pytest.approx(brute(boxed(points, scale), boxed(others, scale)), abs=1e-9)


def test_epsilon_by_hand():
    # From (8, 1) to (4, 0.75): one octave and 0.25. The other way nothing has to be moved: 0.25 is to spare.
    there, back = (
        epsilon_additive([[8, 1.0]], [[4, 0.75]], REFERENCE),
        epsilon_additive([[4, 0.75]], [[8, 1.0]], REFERENCE),
    )
    assert (there.raw, back.raw) == pytest.approx((1.0, -0.25))
    assert (there.normalised, back.normalised) == pytest.approx((1 / 6, -0.125))


def test_igd_plus_by_hand():
    # The first point is attained; the second is missed by one octave only.
    found = igd_plus([[4, 0.5]], [[4, 1.0], [2, 0.6]], REFERENCE)
    assert found.raw == pytest.approx(
        1.0
    )  # (4, 1) is dominated in the union, but (2, 0.6) dominates it: one point left
    assert igd_plus([[4, 0.5]], [[8, 0.1], [2, 0.6]], REFERENCE).raw == pytest.approx((0.4 + 1.0) / 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(points_strategy, max_size=4))
def test_the_pooled_frontier_is_that_of_the_union_and_leads_all(sets):
    pooled = pooled_frontier(sets)
    np.testing.assert_array_equal(pooled, staircase([p for points in sets for p in points]))
    for points in sets:
        ahead = epsilon_additive(pooled, points, REFERENCE)
        assert ahead is None or ahead.raw <= 0
        if (distance := igd_plus(pooled, points, REFERENCE)) is not None:
            assert distance.raw == 0


def test_empty_single_and_itself():
    assert pooled_frontier([]).shape == (0, 2)
    assert epsilon_additive([], [[1, 1]], REFERENCE) is None
    assert igd_plus([[1, 1]], [[64, 1]], REFERENCE) is None
    same = [[4, 1.0], [4, 1.0], [8, 0.5]]
    assert epsilon_additive(same, same, REFERENCE).raw == 0
    assert igd_plus(same, same, REFERENCE).raw == 0
