from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vsae_search.frontier import Replicates, hypervolumes, optimism, replicates_from_rows, shared_seeds

REFERENCE = (64.0, 2.0)
ROWS = [
    ("b", 2, 16.0, 0.5),
    ("a", 1, 4.0, 1.0),
    ("a", 2, 4.0, 1.2),
    ("b", 1, None, None),
    ("c", 3, 8.0, 0.9),
]


def test_rows_become_runs_by_seed():
    runs = replicates_from_rows("topk", ROWS)
    assert (runs.seeds, runs.configurations, runs.num_runs) == ((1, 2, 3), ("b", "a", "c"), 3)
    nan = (math.nan, math.nan)
    expected = [[nan, (4, 1.0), nan], [(16, 0.5), (4, 1.2), nan], [nan, nan, (8, 0.9)]]
    np.testing.assert_array_equal(runs.points_RN2, expected)
    assert replicates_from_rows("topk", []).points_RN2.shape == (0, 0, 2)


def test_the_order_of_rows_changes_no_run():
    forth, back = replicates_from_rows("topk", ROWS), replicates_from_rows("topk", ROWS[::-1])
    np.testing.assert_array_equal(hypervolumes(forth.points_RN2, REFERENCE), hypervolumes(back.points_RN2, REFERENCE))


def test_twice_the_same_is_refused():
    with pytest.raises(ValueError, match="'a' is given twice for seed 1"):
        replicates_from_rows("topk", [*ROWS, ("a", 1, 4.0, 1.0)])
    with pytest.raises(ValueError, match="twice"):
        Replicates("topk", (1, 1), np.zeros((2, 1, 2)))
    with pytest.raises(ValueError, match="twice"):
        Replicates("topk", (1,), np.zeros((1, 2, 2)), ("a", "a"))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[R, N, 2\]"):
        Replicates("topk", (1,), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="do not fit"):
        Replicates("topk", (1,), np.zeros((2, 1, 2)))
    with pytest.raises(ValueError, match="do not fit"):
        Replicates("topk", (1, 2), np.zeros((2, 1, 2)), ("a", "b"))


def test_points_are_a_copy_that_nobody_writes_to():
    points = np.zeros((1, 1, 2))
    runs = Replicates("topk", (1,), points)
    points[:] = 5
    assert runs.points_RN2.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        runs.points_RN2[:] = 1


def test_seeds_are_chosen_and_shared():
    a = Replicates("a", (3, 1, 2), np.arange(6.0).reshape(3, 1, 2))
    b = Replicates("b", (2, 3, 9), np.zeros((3, 1, 2)))
    assert shared_seeds(a, b) == (2, 3)
    assert a.of_seeds((2, 3)).points_RN2.tolist() == [[[4, 5]], [[0, 1]]]
    with pytest.raises(ValueError, match="not in tuple"):
        a.of_seeds((7,))


def test_optimism_by_hand():
    # Search: a (4, 0.9), b (16, 0.5); two seeds confirm a at 1.0 and 1.2, b at 0.6 and 0.6.
    points = [[(4, 1.0), (16, 0.6)], [(5, 1.2), (16, 0.6)]]
    found = optimism([(4, 0.9), (16, 0.5)], Replicates("topk", (1, 2), np.array(points)), REFERENCE)
    assert [gap.gap for gap in found.delta_ce] == pytest.approx([-0.2, -0.1])
    assert [gap.confirmed for gap in found.l0] == pytest.approx([4.5, 16.0])
    # Means over configurations: 0.7 in the search, 0.8 and 0.9 with the seeds.
    mean = found.mean_delta_ce
    assert (mean.search, mean.confirmed, mean.gap, mean.num_runs) == pytest.approx((0.7, 0.85, -0.15, 2))
    half = stats.t.ppf(0.975, 1) * 0.05
    assert (mean.interval.low, mean.interval.high) == pytest.approx((-0.15 - half, -0.15 + half))
    assert found.num_in_mean == 2
    area = found.hypervolume
    assert area.search == pytest.approx((4 * 1.1 + 2 * 0.4) / 12)
    assert area.confirmed == pytest.approx(hypervolumes(np.array(points), REFERENCE).mean())
    assert area.gap > 0


def test_optimism_with_missing_runs():
    nan = math.nan
    points = [[(4, 1.0), (16, 0.6), (nan, nan)], [(4, 1.2), (nan, 0.6), (nan, nan)]]
    search = [(4, 0.9), (16, 0.5), (32, 0.1)]
    found = optimism(search, Replicates("topk", (1, 2), np.array(points)), None)
    assert [gap.num_runs for gap in found.delta_ce] == [2, 1, 0]
    assert (found.delta_ce[1].gap, found.delta_ce[1].interval) == (pytest.approx(-0.1), None)
    assert (found.delta_ce[2].gap, found.delta_ce[2].search) == (None, 0.1)
    assert (found.num_in_mean, found.mean_delta_ce.search) == (1, 0.9)
    assert found.hypervolume is None
    nobody = optimism([(4, nan)], Replicates("topk", (), np.empty((0, 1, 2))), REFERENCE)
    assert (nobody.mean_delta_ce, nobody.num_in_mean, nobody.hypervolume.gap) == (None, 0, None)
    assert nobody.delta_ce[0].search is None
    with pytest.raises(ValueError, match="1 scores for 3"):
        optimism([(4, 0.9)], Replicates("topk", (1, 2), np.array(points)), None)


def test_choosing_by_noisy_scores_is_seen_as_optimism():
    generator = np.random.default_rng(0)
    chosen = 1 + generator.normal(0, 0.1, (20, 30)).min(axis=1)  # best of 30 equal configurations, 20 times
    again = 1 + generator.normal(0, 0.1, (6, 20))
    l0 = np.full(20, 8.0)
    runs = Replicates("topk", tuple(range(6)), np.stack([np.tile(l0, (6, 1)), again], axis=-1))
    gap = optimism(np.column_stack([l0, chosen]), runs, REFERENCE)
    assert gap.mean_delta_ce.interval.high < -0.1
    assert gap.hypervolume.interval.low > 0
