from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsae_search.frontier import (
    attained,
    attainment,
    attainment_band,
    attainment_cells,
    attainment_difference,
    attainment_surface,
    attainment_volume,
    hypervolume,
    hypervolumes,
)

REFERENCE, IDEAL = (64.0, 2.0), (1.0, 0.0)
BOX = 12.0  # 6 octaves times 2


def rounded(value):
    """Cells of 1e-300 would be too small for the arithmetic of the tests."""
    return round(value, 3)


# Few distinct values, so that ties and duplicates are common; below the ideal, on and beyond the reference, not finite.
l0 = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 64.0, 65.0, np.nan, np.inf]), st.floats(0.5, 70).map(rounded))
delta = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan, -np.inf]), st.floats(-0.1, 2.2).map(rounded))
run = st.lists(st.tuples(l0, delta), max_size=6)
runs_strategy = st.lists(run, min_size=1, max_size=5)
level = st.sampled_from([0.01, 0.2, 0.25, 1 / 3, 0.5, 0.6, 0.75, 1.0])


def attains(points, place):
    return any(np.isfinite(p).all() and p[0] <= place[0] and p[1] <= place[1] for p in points)


def places_of(*runs):
    """Every crossing of coordinates, and places between them: the function can change nowhere else."""
    values = [
        [v for points in runs for v in np.array([p for p in points if np.isfinite(p).all()] or [(1.0, 1.0)])[:, axis]]
        for axis in (0, 1)
    ]
    xs, ys = (sorted({*axis, *(v + 1e-3 for v in axis), *(v - 1e-3 for v in axis)}) for axis in values)
    return [(x, y) for x in xs for y in ys]


@settings(max_examples=60, deadline=None)
@given(runs_strategy)
def test_attainment_is_the_share_of_runs_that_attain(runs):
    places = places_of(*runs)[:400]
    expected = [sum(attains(points, place) for points in runs) / len(runs) for place in places]
    np.testing.assert_allclose(attainment(runs, places), expected)


@settings(max_examples=60, deadline=None)
@given(runs_strategy, level)
def test_surface_is_the_edge_of_what_enough_runs_attain(runs, share):
    surface = attainment_surface(runs, share)
    needed = math.ceil(round(share * len(runs), 9))
    assert (surface.num_attaining, surface.num_runs) == (needed, len(runs))
    for place in places_of(*runs)[:150]:
        enough = sum(attains(points, place) for points in runs) >= needed
        assert (attained(surface.corners_M2, [place[0]])[0] <= place[1]) == enough


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(1, 9), st.floats(0, 9)), min_size=1, max_size=6), min_size=1, max_size=6))
def test_surfaces_agree_with_moocore(runs):
    points = np.concatenate([np.array(points) for points in runs])
    sets = np.repeat(np.arange(len(runs)), [len(points) for points in runs])
    for share in (0.25, 0.5, 0.75, 1.0):
        table = moocore.eaf(points, sets, percentiles=[100 * share])
        expected = np.unique(table[:, :2], axis=0)
        np.testing.assert_array_equal(attainment_surface(runs, share).corners_M2, expected)


@settings(max_examples=80, deadline=None)
@given(runs_strategy)
def test_mean_hypervolume_is_the_volume_under_the_attainment_function(runs):
    volume, fraction = attainment_volume(runs, REFERENCE, ideal=IDEAL)
    mean = np.mean([hypervolume(points, REFERENCE, ideal=IDEAL).value for points in runs])
    assert volume == pytest.approx(mean, abs=1e-9)
    assert fraction == pytest.approx(mean / BOX, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(runs_strategy)
def test_mean_hypervolume_is_the_mean_hypervolume_of_all_surfaces(runs):
    count = len(runs)
    surfaces = [attainment_surface(runs, k / count) for k in range(1, count + 1)]
    areas = [hypervolume(surface.corners_M2, REFERENCE).value for surface in surfaces]
    assert np.mean(areas) == pytest.approx(np.mean([hypervolume(points, REFERENCE).value for points in runs]), abs=1e-9)
    assert areas == sorted(areas, reverse=True)


@settings(max_examples=40, deadline=None)
@given(runs_strategy, runs_strategy)
def test_cells_tile_the_box_and_carry_the_shares(a, b):
    cells = attainment_cells([a, b], REFERENCE, ideal=IDEAL)
    assert cells.areas_C.sum() == pytest.approx(BOX)
    assert (cells.areas_C > 0).all()
    low, high = cells.boxes_C4[:, :2], cells.boxes_C4[:, 2:]
    overlap = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    overlapping = (overlap > 1e-12).all(axis=2)
    assert overlapping.sum() == len(low)  # each with itself only
    # Inside the box the corner of a cell decides for the whole cell; clipping moves no point across an inner place.
    clipped = [
        [
            [(max(x, 1.0), max(y, 0.0)) for x, y in points if np.isfinite([x, y]).all() and x < 64 and y < 2]
            for points in runs
        ]
        for runs in (a, b)
    ]
    for place in (low, low + 0.999 * (high - low)):
        for column, runs in enumerate(clipped):
            np.testing.assert_allclose(cells.shares_CA[:, column], attainment(runs, place))


def test_difference_by_hand():
    # A attains (4, 1) in both runs; B in one of two, and (16, 0.5) in the other.
    a, b = [[[4, 1.0]], [[4, 1.0]]], [[[4, 1.0]], [[16, 0.5]]]
    found = attainment_difference(a, b, REFERENCE)
    boxes = {
        tuple(box): difference for box, difference in zip(found.boxes_C4.tolist(), found.difference_C, strict=True)
    }
    assert boxes == {(4, 1, 16, 2): 0.5, (16, 0.5, 64, 1): -0.5}
    # Two octaves times 1 times a half, and two octaves times a half times a half.
    assert found.favours_a == pytest.approx(1.0 / BOX)
    assert found.favours_b == pytest.approx(0.5 / BOX)
    assert (found.num_runs_a, found.num_runs_b) == (2, 2)
    assert found.share_a_C.tolist() == [1.0, 0.0]


@settings(max_examples=80, deadline=None)
@given(runs_strategy, runs_strategy)
def test_difference_integrates_to_the_difference_of_mean_hypervolumes(a, b):
    found, mirrored = attainment_difference(a, b, REFERENCE), attainment_difference(b, a, REFERENCE)
    expected = hypervolumes(a, REFERENCE).mean() - hypervolumes(b, REFERENCE).mean()
    assert found.favours_a - found.favours_b == pytest.approx(expected, abs=1e-9)
    assert (mirrored.favours_a, mirrored.favours_b) == (found.favours_b, found.favours_a)
    assert (found.difference_C != 0).all()
    assert found.boxes_C4.shape == (len(found.difference_C), 4)


@settings(max_examples=50, deadline=None)
@given(runs_strategy)
def test_no_difference_from_itself(runs):
    found = attainment_difference(runs, runs[::-1], REFERENCE)
    assert (len(found.boxes_C4), found.favours_a, found.favours_b) == (0, 0, 0)


def test_the_surface_does_not_depend_on_the_scale_of_the_axes():
    generator = np.random.default_rng(0)
    runs_RN2 = generator.uniform(1, 64, (6, 10, 2))
    surface = attainment_surface(runs_RN2, 0.5).corners_M2
    logged = attainment_surface(np.log2(runs_RN2), 0.5).corners_M2
    np.testing.assert_allclose(np.log2(surface), logged)


def test_band_single_runs_and_empty_ones():
    point = [[3.0, 1.0]]
    assert [s.corners_M2.tolist() for s in attainment_band([point])] == [point] * 3
    assert [s.num_attaining for s in attainment_band([point] * 6)] == [2, 3, 5]
    # Two of four runs attain nothing: what three quarters attain is empty, and they count.
    band = attainment_band([point, [], point, [[np.nan, 1.0]]])
    assert [len(s.corners_M2) for s in band] == [1, 1, 0]
    assert attainment([point, []], [[3, 1], [2, 1]]).tolist() == [0.5, 0.0]
    assert attainment_volume([[], []], REFERENCE) == (0.0, 0.0)
    assert attainment_cells([[[]]], REFERENCE).boxes_C4.tolist() == [[1, 0, 64, 2]]


def test_no_runs_and_impossible_levels_are_refused():
    for call in (
        lambda: attainment([], [[1, 1]]),
        lambda: attainment_surface([]),
        lambda: attainment_volume([], REFERENCE),
        lambda: attainment_difference([[[1, 1]]], [], REFERENCE),
    ):
        with pytest.raises(ValueError, match="at least one run"):
            call()
    for share in (0.0, 1.01, -1.0, np.nan):
        with pytest.raises(ValueError, match="level"):
            attainment_surface([[[1, 1]]], share)
