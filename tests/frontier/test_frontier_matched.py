from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from vsae_search.frontier import (
    MATCHED_L0,
    Replicates,
    attained,
    difference_interval,
    interpolated,
    matched,
    mean_interval,
    median_interval,
    read_frontiers,
)
from vsae_search.frontier.intervals import order_coverage

finite = st.floats(-100, 100)
samples = st.lists(finite, min_size=2, max_size=12)


def replicates(*runs):
    width = max(map(len, runs))
    padded = [[*points, *[(np.nan, np.nan)] * (width - len(points))] for points in runs]
    return Replicates("topk", tuple(range(len(runs))), np.array(padded, dtype=float).reshape(len(runs), width, 2))


def test_the_levels_of_the_report():
    assert MATCHED_L0 == (8, 16, 32, 64, 128)


def test_staircase_and_interpolation_by_hand():
    points = [[4, 1.0], [16, 0.5], [8, 2.0], [np.nan, 0.0]]
    np.testing.assert_array_equal(read_frontiers([points], [2, 4, 8, 16, 99])[0], [np.inf, 1.0, 1.0, 0.5, 0.5])
    # Half-way in octaves between 4 and 16.
    np.testing.assert_allclose(interpolated(points, [2, 4, 8, 16, 99]), [np.inf, 1.0, 0.75, 0.5, 0.5])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 200), finite), max_size=8), st.lists(st.floats(0.5, 300), min_size=1, max_size=5)
)
def test_interpolation_never_lies_above_the_staircase_nor_below_the_next_step(points, l0s):
    drawn, steps = interpolated(points, l0s), attained(points, l0s)
    np.testing.assert_array_equal(np.isinf(drawn), np.isinf(steps))
    reached = np.isfinite(steps)
    assert (drawn[reached] <= steps[reached] + 1e-9).all()
    for value, l0 in zip(drawn[reached], np.array(l0s)[reached], strict=True):
        assert value >= min(p[1] for p in points) - 1e-9
        assert l0 >= min(p[0] for p in points)


def test_an_l0_of_zero_has_no_place_on_a_log_axis():
    np.testing.assert_allclose(interpolated([[0, 3.0], [4, 1.0], [16, 0.5]], [2, 8]), [3.0, 0.75])
    np.testing.assert_allclose(interpolated([[0, 3.0]], [2]), [3.0])


def test_matched_by_hand():
    runs = replicates([(8, 1.0), (32, 0.5)], [(8, 1.2), (30, 0.4)], [(9, 1.1), (31, 0.3)])
    eight, thirty_two = matched(runs, (8, 32))
    assert (eight.values, eight.num_reached) == ((1.0, 1.2, None), 2)
    assert (eight.mean, eight.mean_interval) == (None, None)
    assert eight.median == 1.2
    assert (eight.median_interval.low, eight.median_interval.high) == (1.0, None)
    assert thirty_two.mean == pytest.approx(0.4)
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert thirty_two.mean_interval.low == pytest.approx(0.4 - half)
    assert thirty_two.mean_interval.high == pytest.approx(0.4 + half)
    assert (thirty_two.mean_interval.method, thirty_two.mean_interval.coverage) == ("student t", 0.95)
    assert thirty_two.median_interval.coverage == pytest.approx(0.75)  # three runs cannot do better
    assert (thirty_two.l0, thirty_two.reading, thirty_two.architecture) == (32, "staircase", "topk")


def test_matched_with_one_run_with_none_reaching_and_without_runs():
    (alone,) = matched(replicates([(8, 1.0)]), (8,))
    assert (alone.mean, alone.median, alone.mean_interval, alone.median_interval) == (1.0, 1.0, None, None)
    (nowhere,) = matched(replicates([(8, 1.0)], [(9, 1.0)]), (4,))
    assert (nowhere.values, nowhere.num_reached, nowhere.median, nowhere.median_interval) == (
        (None, None),
        0,
        None,
        None,
    )
    (nobody,) = matched(Replicates("relu", (), np.empty((0, 3, 2))), (8,))
    assert (nobody.values, nobody.num_reached, nobody.mean, nobody.median) == ((), 0, None, None)
    (half,) = matched(replicates([(8, 1.0)], [(9, 1.0)]), (8,))
    assert half.median is None  # between one and infinity there is no middle


def test_interpolated_reading_is_labelled():
    (found,) = matched(replicates([(4, 1.0), (16, 0.5)]), (8,), reading="interpolated")
    assert (found.reading, found.mean) == ("interpolated", pytest.approx(0.75))


@settings(max_examples=50, deadline=None)
@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_t_interval_agrees_with_scipy(values, coverage):
    found = mean_interval(values, coverage=coverage)
    half = stats.t.ppf(0.5 + coverage / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_welch_interval_agrees_with_scipy(values, others):
    found = difference_interval(values, others)
    assume(min(np.std(values), np.std(others)) > 1e-6)  # SciPy warns of groups without spread; see the flat ones below
    expected = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_intervals_that_do_not_exist():
    for values in ([], [1.0], [1.0, np.nan]):
        assert mean_interval(values) is None
        assert median_interval(values) is None
    assert mean_interval([1.0, np.inf]) is None
    assert difference_interval([1.0], [1.0, 2.0]) is None
    assert difference_interval([1.0, np.inf], [1.0, 2.0]) is None
    flat = difference_interval([2.0, 2.0], [1.0, 1.0])
    assert (flat.low, flat.high) == (1.0, 1.0)
    # One flat group: Student's t with the degrees of freedom of the other.
    half_flat, alone = difference_interval([1.0, 2.0, 4.0], [0.0, 0.0]), mean_interval([1.0, 2.0, 4.0])
    assert (half_flat.low, half_flat.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize("num_runs", range(2, 8))
def test_order_coverage_counts_the_sides_on_which_runs_can_fall(num_runs):
    for rank in range(1, num_runs // 2 + 1):
        sides = itertools.product([0, 1], repeat=num_runs)
        inside = sum(rank <= sum(side) <= num_runs - rank for side in sides)
        assert order_coverage(num_runs, rank) == pytest.approx(inside / 2**num_runs)


def test_median_interval_is_the_narrowest_that_covers_enough():
    six, twelve = median_interval(range(6)), median_interval(range(12))
    assert (six.low, six.high, six.coverage) == (0, 5, pytest.approx(0.96875))
    assert (twelve.low, twelve.high) == (2, 9)  # ranks 3 and 10 cover 96.1 %, ranks 4 and 9 only 85.4 %
    assert twelve.coverage == pytest.approx(0.9614, abs=1e-4)
    assert median_interval(range(5)).coverage == pytest.approx(0.9375)
    assert median_interval([3, 1, 2, np.inf, 5, 4]).high is None


def test_measured_coverage_is_the_stated_one():
    generator = np.random.default_rng(0)
    normal, skewed = generator.normal(size=(3000, 6)), generator.exponential(size=(3000, 6))
    covered = np.mean([found.low <= 0 <= found.high for found in map(mean_interval, normal)])
    assert covered == pytest.approx(0.95, abs=0.015)
    medians = [found.low <= math.log(2) <= found.high for found in map(median_interval, skewed)]
    assert np.mean(medians) == pytest.approx(0.96875, abs=0.012)
