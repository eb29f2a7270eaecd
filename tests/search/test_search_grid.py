from __future__ import annotations

import itertools

import pytest
from search_problem import RANGES, address, empty, plans, spend  # noqa: F401 - a fixture

from vsae_search.search.propose.grid import grid_axes, grid_points, grid_size
from vsae_search.search.propose.plans import Plan
from vsae_search.search.propose.studies import Studies
from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange


def test_choices_are_taken_as_they_are_and_ranges_get_what_is_left():
    ranges = {
        "mode": ChoiceRange(choices=("a", "b")),
        "lr": LogRange(low=1e-4, high=1.0),
        "alpha": UniformRange(low=0.0, high=1.0),
        "fixed": ConstantRange(value=7),
    }
    axes = grid_axes(ranges, 12)  # 2 choices leave 6 combinations: 3 x 2
    assert axes["mode"] == ["a", "b"]
    assert axes["fixed"] == [7]
    assert axes["alpha"] == [0.25, 0.75]
    # three equal parts of four decades: their middles are 2/3, 2 and 10/3 decades above the lower end
    assert axes["lr"] == pytest.approx([10 ** (-4 + 2 / 3), 10**-2, 10 ** (-4 + 10 / 3)])
    assert grid_size(ranges, 12) == 12


@pytest.mark.parametrize(
    ("searched", "budget", "values"),
    [
        (IntRange(low=3, high=5), 100, [3, 4, 5]),
        (IntRange(low=1, high=9), 3, [2, 5, 8]),
        (IntRange(low=1, high=9), 1, [5]),
        (LogRange(low=1, high=4, integer=True), 1, [2]),
        (LogRange(low=1e-2, high=1.0), 1, [0.1]),
        (ChoiceRange(choices=(8, 2)), 1, [8, 2]),
    ],
)
def test_the_values_of_one_range(searched, budget, values):
    found = grid_axes({"x": searched}, budget)["x"]
    assert found == pytest.approx(values)
    assert [type(value) for value in found] == [type(value) for value in values]


def test_a_range_of_whole_numbers_shows_all_of_them_and_no_more():
    axes = grid_axes({"k": LogRange(low=1, high=6, integer=True), "lr": LogRange(low=1e-3, high=1.0)}, 1000)
    assert axes["k"] == sorted(set(axes["k"]))
    assert set(axes["k"]) <= {1, 2, 3, 4, 5, 6}
    assert len(axes["k"]) * len(axes["lr"]) <= 1000 < len(axes["k"]) * (len(axes["lr"]) + 1)


def test_the_points_are_the_whole_product_in_an_order_of_the_seed():
    ranges = RANGES["topk"]
    points = grid_points(ranges, 30, seed=1)
    axes = grid_axes(ranges, 30)
    expected = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert points != expected
    assert sorted(points, key=str) == sorted(expected, key=str)
    assert grid_points(ranges, 30, seed=1) == points != grid_points(ranges, 30, seed=2)


def test_a_study_runs_every_point_once_and_ends(tmp_path, empty):  # noqa: F811
    grid = tuple(grid_points(RANGES["topk"], 10, seed=0))
    assert len(grid) == 10
    (plan,) = plans(len(grid), 0, ("topk",)).values()
    plan = Plan(plan.proposals, plan.budget, 0, (), grid)
    studies = Studies("s", 0, {"topk": plan}, sampler="grid", max_retries=0, storage=address(empty, tmp_path))
    asked = spend(studies)
    studies.close()
    assert [one.params for one in asked] == list(grid)
    assert [one.uid for one in asked] == [f"topk-{number:04d}" for number in range(10)]
