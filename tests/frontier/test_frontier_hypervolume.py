from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsae_search.errors import UserInputError
from vsae_search.frontier import default_ideal, hypervolume, hypervolume_history, hypervolumes, outside

REFERENCE, IDEAL = (64.0, 2.0), (1.0, 0.0)

coordinate = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 8.0, 64.0, 65.0]), st.floats(-1, 70))
points_strategy = st.lists(st.tuples(coordinate, coordinate.map(lambda v: v / 30)), max_size=7)
wild = st.lists(st.tuples(st.floats(), st.floats()), max_size=5)


def inclusion_exclusion(points):
    """Area of the union of boxes [point, reference] by inclusion and exclusion on (log2 L0, delta_ce)."""
    corner = (math.log2(REFERENCE[0]), REFERENCE[1])
    boxes = [
        (math.log2(max(l0, IDEAL[0])), max(delta, IDEAL[1]))
        for l0, delta in points
        if l0 < REFERENCE[0] and delta < REFERENCE[1]
    ]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            low = [max(box[axis] for box in chosen) for axis in (0, 1)]
            total += (-1) ** (size + 1) * (corner[0] - low[0]) * (corner[1] - low[1])
    return total


@settings(max_examples=200, deadline=None)
@given(points_strategy)
def test_hypervolume_matches_inclusion_exclusion(points):
    result = hypervolume(points, REFERENCE, ideal=IDEAL)
    assert result.value == pytest.approx(inclusion_exclusion(points), abs=1e-9)
    assert result.normalised == pytest.approx(result.value / 12.0, abs=1e-12)
    assert 0 <= result.normalised <= 1


@settings(max_examples=200, deadline=None)
@given(points_strategy, wild)
def test_counts_add_up_and_non_finite_rows_change_nothing(points, noise):
    broken = [p for p in noise if not np.isfinite(p).all()]
    clean, mixed = hypervolume(points, REFERENCE), hypervolume(broken + points + broken, REFERENCE)
    assert mixed.value == clean.value
    assert mixed.num_non_finite == 2 * len(broken)
    assert mixed.num_points == len(points) + 2 * len(broken)
    assert clean.num_outside == sum(l0 >= 64 or delta >= 2 for l0, delta in points)
    assert clean.num_clipped == sum(l0 < 64 and delta < 2 and (l0 < 1 or delta < 0) for l0, delta in points)


@settings(max_examples=200, deadline=None)
@given(points_strategy, st.tuples(st.floats(0, 70), st.floats(0, 3)))
def test_another_point_never_lowers_it(points, extra):
    assert hypervolume([*points, extra], REFERENCE).value >= hypervolume(points, REFERENCE).value - 1e-12


def test_by_hand():
    # Box: 6 octaves x 2 = 12. (8, 1): 3 octaves x 1 = 3. (2, 1.5): 5 x 0.5 = 2.5, overlap 3 x 0.5 = 1.5.
    result = hypervolume([[8, 1.0], [2, 1.5]], REFERENCE)
    assert result.value == pytest.approx(4.0)
    assert result.normalised == pytest.approx(4.0 / 12.0)


def test_duplicates_and_dominated_points_add_nothing():
    one = hypervolume([[8, 1.0]], REFERENCE).value
    assert hypervolume([[8, 1.0], [8, 1.0], [16, 1.5]], REFERENCE).value == one


@pytest.mark.parametrize("points", [[], np.empty((0, 2)), [[np.nan, 1.0]], [[64.0, 0.1]], [[1.0, 2.0]]])
def test_nothing_inside_is_zero(points):
    assert hypervolume(points, REFERENCE).value == 0.0


def test_l0_of_zero_is_finite_and_counted():
    result = hypervolume([[0.0, 1.0], [-0.0, 1.5]], REFERENCE)
    assert result.value == pytest.approx(6.0)
    assert result.num_clipped == 2
    assert hypervolume([[0.0, -5.0]], REFERENCE).normalised == pytest.approx(1.0)


def test_log_scale_is_used():
    halving = hypervolume([[8, 1.0]], REFERENCE).value - hypervolume([[16, 1.0]], REFERENCE).value
    assert halving == pytest.approx(1.0)  # one octave times one unit of delta_ce


def test_default_ideal():
    assert default_ideal((512, 0.5)) == (1.0, 0.0)
    assert default_ideal((512, 0.5), true_l0=2.4) == (0.5, 0.0)
    assert default_ideal((512, 0.5), true_l0=100) == (1.0, 0.0)
    assert default_ideal((0.5, 0.5)) == (0.125, 0.0)
    assert default_ideal((512, 0.5), true_l0=0.0) == (1.0, 0.0)


@pytest.mark.parametrize("reference", [(0, 1), (-1, 1), (8, 0), (8, -1), (math.nan, 1), (8, math.inf)])
def test_useless_reference_is_refused_with_a_hint(reference):
    with pytest.raises(UserInputError) as caught:
        hypervolume([[1, 1]], reference)
    assert "objectives.reference" in caught.value.hint


@pytest.mark.parametrize("ideal", [(8, 0), (0, 0), (1, 1), (1, -math.inf), (math.nan, 0), (1, math.nan)])
def test_an_ideal_that_is_no_corner_of_a_box_is_refused(ideal):
    with pytest.raises(UserInputError):
        hypervolume([[1, 1]], (8, 1), ideal=ideal)


def test_the_box_travels_with_the_number():
    result = hypervolume([[8, 1.0]], REFERENCE)
    assert (result.reference, result.ideal) == (REFERENCE, IDEAL)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.one_of(coordinate, st.just(math.nan)), coordinate), max_size=8))
def test_history_is_the_hypervolume_of_every_beginning(points):
    expected = [hypervolume(points[: end + 1], REFERENCE).normalised for end in range(len(points))]
    np.testing.assert_allclose(hypervolume_history(points, REFERENCE), expected, atol=1e-12)


def test_hypervolumes_of_runs_without_points():
    runs = [[[8, 1.0]], [], [[np.nan, np.nan]]]
    np.testing.assert_allclose(hypervolumes(runs, REFERENCE), [3 / 12, 0, 0])
    assert hypervolumes([], REFERENCE).shape == (0,)


def test_outside_is_on_or_beyond():
    assert outside([[64, 1], [63, 1], [1, 2], [np.nan, 5]], REFERENCE).tolist() == [True, False, True, False]
