from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsae_search.frontier import (
    attained,
    count_non_finite,
    finite_rows,
    nondominated,
    ownership,
    pareto_rank,
    staircase,
)

# Few distinct values, so that ties and duplicates are common; and anything a float can be.
coordinate = st.one_of(
    st.integers(-2, 6).map(float), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 100, width=32)
)
point_sets = st.lists(st.tuples(coordinate, coordinate), max_size=25)


def brute_force(points: list[tuple[float, float]]) -> list[bool]:
    """O(n^2): finite, and no finite point at most as large in both and smaller in one."""
    finite = [p for p in points if np.isfinite(p).all()]

    def dominated(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and (q[0] < p[0] or q[1] < p[1]) for q in finite)

    return [bool(np.isfinite(p).all()) and not dominated(p) for p in points]


@settings(max_examples=300, deadline=None)
@given(point_sets)
def test_nondominated_matches_brute_force(points):
    assert nondominated(points).tolist() == brute_force(points)


@settings(max_examples=100, deadline=None)
@given(point_sets, st.randoms(use_true_random=False))
def test_nondominated_does_not_depend_on_row_order(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = [points[i] for i in order]
    mask = nondominated(points)
    assert nondominated(shuffled).tolist() == [bool(mask[i]) for i in order]


def test_nan_row_neither_wins_nor_knocks_out_others():
    assert nondominated([[1, 2], [float("nan"), 1], [2, 1]]).tolist() == [True, False, True]
    assert count_non_finite([[1, 2], [float("nan"), 1], [2, float("inf")]]) == 2
    assert finite_rows([[1, 2], [float("-inf"), 1]]).tolist() == [True, False]


def test_duplicates_are_all_kept():
    assert nondominated([[1, 2], [1, 2], [1, 3]]).tolist() == [True, True, False]


def test_empty_single_and_bad_shapes():
    assert nondominated([]).shape == (0,)
    assert nondominated(np.empty((0, 2))).shape == (0,)
    assert nondominated([[3.0, 1.0]]).tolist() == [True]
    assert nondominated([[np.nan, 1.0]]).tolist() == [False]
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        nondominated([[1.0, 2.0, 3.0]])


def test_input_is_left_alone():
    points = np.array([[1.0, 2.0], [np.nan, 1.0]])
    before = points.copy()
    nondominated(points)
    np.testing.assert_array_equal(points, before)


@settings(max_examples=200, deadline=None)
@given(point_sets)
def test_pareto_rank_peels_one_frontier_after_the_other(points):
    ranks, left = pareto_rank(points), [p if np.isfinite(p).all() else (np.nan, np.nan) for p in points]
    expected = np.full(len(points), -1)
    for rank in range(len(points)):
        mask = brute_force(left)
        expected[mask] = rank
        left = [(np.nan, np.nan) if gone else p for p, gone in zip(left, mask, strict=True)]
    assert ranks.tolist() == expected.tolist()


def test_pareto_rank_by_hand():
    assert pareto_rank([[1, 3], [2, 3], [3, 1], [2, 3], [4, 4], [np.nan, 0]]).tolist() == [0, 1, 0, 1, 2, -1]
    assert pareto_rank([]).shape == (0,)


@settings(max_examples=200, deadline=None)
@given(point_sets)
def test_staircase_rises_in_l0_and_falls_in_delta_ce(points):
    corners = staircase(points)
    assert (np.diff(corners[:, 0]) > 0).all()
    assert (np.diff(corners[:, 1]) < 0).all()
    kept = {tuple(p) for p, keep in zip(points, brute_force(points), strict=True) if keep}
    assert {tuple(c) for c in corners.tolist()} == kept


@settings(max_examples=200, deadline=None)
@given(point_sets, st.lists(st.floats(-3, 110), min_size=1, max_size=5))
def test_attained_is_the_best_point_at_most_that_dense(points, l0s):
    finite = [p for p in points if np.isfinite(p).all()]
    expected = [min((p[1] for p in finite if p[0] <= l0), default=np.inf) for l0 in l0s]
    np.testing.assert_array_equal(attained(points, l0s), expected)


def test_ownership_by_hand():
    # a: (1, 8) (4, 2)   b: (2, 4) (8, 1)   reference (16, 10)
    segments = ownership({"b": [[2, 4], [8, 1]], "a": [[1, 8], [4, 2]]}, (16, 10))
    assert [(s.low, s.high, s.owners) for s in segments] == [
        (1, 2, ("a",)),
        (2, 4, ("b",)),
        (4, 8, ("a",)),
        (8, 16, ("b",)),
    ]


def test_ownership_ties_outside_points_and_nothing():
    tied = ownership({"a": [[1, 1]], "b": [[1, 1]]}, (4, 2))
    assert [(s.low, s.high, s.owners) for s in tied] == [(1, 4, ("a", "b"))]
    assert ownership({"a": [[1, 3]], "b": [[5, 1]], "c": []}, (4, 2)) == ()
    assert ownership({}, (4, 2)) == ()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), point_sets), st.floats(0, 30))
def test_ownership_agrees_with_reading_the_staircases(points, l0):
    reference = (30.0, 50.0)
    segments = ownership(points, reference)
    inside = {n: [p for p in ps if p[0] < 30 and p[1] < 50 and np.isfinite(p).all()] for n, ps in points.items()}
    levels = {name: attained(values, [l0])[0] for name, values in inside.items()}
    lowest = min(levels.values(), default=np.inf)
    expected = tuple(sorted(n for n, v in levels.items() if v == lowest)) if np.isfinite(lowest) else ()
    found = [s.owners for s in segments if s.low <= l0 < s.high]
    if l0 < 30:
        assert found == ([expected] if expected else [])
    assert all(a.owners != b.owners and a.high == b.low for a, b in itertools.pairwise(segments))
