from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from search_problem import OBJECTIVES, address, empty, outcome, plans, spend  # noqa: F401 - a fixture

from vsae_search.search.objectives import Objectives
from vsae_search.search.propose.between import halfway
from vsae_search.search.propose.coverage import (
    edge_points,
    frontier_order,
    gaps,
    signed_distance,
    unevenness,
    widest_gap,
)
from vsae_search.search.propose.studies import Studies, Told

WANTED = (1.0, 5.0)


def test_distance_to_an_interval():
    assert [signed_distance(x, WANTED) for x in (0.0, 1.0, 2.0, 4.5, 5.0, 7.0)] == [1.0, 0.0, -1.0, -0.5, 0.0, 2.0]


def test_frontier_order():
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.0), (2.0, 2.0), (3.0, 1.0), (4.0, 1.5)]
    assert frontier_order(points) == [1, 3, 0]
    assert frontier_order([]) == []


def test_gaps_reach_to_the_ends_of_the_range():
    assert gaps([2.0, 4.5], WANTED) == [(2.0, 4.5), (1.0, 2.0), (4.5, 5.0)]
    assert gaps([], WANTED) == [WANTED]
    assert unevenness([4.0, 8.0, 100.0], 2.0, 32.0) == 0.5  # log2: 2, 3 | range 1 to 5, and 100 is outside
    assert unevenness([], 2.0, 32.0) == 1.0


def test_the_widest_gap_is_left_alone_after_two_attempts():
    points = [(2.0, -1.0), (4.5, -3.0), (3.0, 5.0), (9.0, -9.0)]  # the third is dominated, the fourth outside
    assert widest_gap(points, WANTED, []) == (2.0, 4.5)
    assert widest_gap(points, WANTED, [(2.0, 4.5)]) == (2.0, 4.5)
    assert widest_gap(points, WANTED, [(2.0, 4.5)] * 2) is None  # the others are narrower than even spacing
    assert widest_gap([], WANTED, []) == WANTED
    even = [(1.0 + 4.0 * i / 5, -float(i)) for i in range(1, 5)]
    assert widest_gap(even, WANTED, []) in (None, (1.0, 1.8))


def test_the_neighbours_of_a_gap_may_lie_beyond_the_range():
    points = [(2.0, -1.0), (4.5, -3.0), (3.0, 5.0), (9.0, -9.0), (0.5, 0.0)]
    assert edge_points(points, (2.0, 4.5)) == (0, 1)
    assert edge_points(points, (1.0, 2.0)) == (4, 0)
    assert edge_points(points, (4.5, 5.0)) == (1, 3)
    assert edge_points(points[:2], (1.0, 2.0)) is None


def test_half_way_is_on_the_scale_of_each_range():
    searched = {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "alpha": FloatDistribution(0.0, 1.0),
        "k": IntDistribution(1, 64, log=True),
        "width": IntDistribution(0, 3),
        "mode": CategoricalDistribution(("a", "b")),
    }
    first = {"lr": 1e-3, "alpha": 0.2, "k": 4, "width": 0, "mode": "b"}
    second = {"lr": 1e-1, "alpha": 0.6, "k": 16, "width": 3, "mode": "a"}
    middle = halfway(searched, first, second)
    assert middle == pytest.approx({"lr": 1e-2, "alpha": 0.4, "k": 8, "width": 2, "mode": "b"})
    assert type(middle["k"]) is int


def test_what_is_told_of_a_range():
    objectives = Objectives(64.0, 2.0, (2.0, 32.0))
    assert objectives.wanted == WANTED
    assert [objectives.outside(l0) for l0 in (1.0, 2.0, 4.0, 64.0)] == [1.0, 0.0, -1.0, 1.0]
    assert objectives.outside(0.0) > 10  # an autoencoder that never fires
    assert OBJECTIVES.wanted is None
    assert OBJECTIVES.outside(4.0) is None


def test_trials_outside_of_the_range_are_no_good_ones(tmp_path, empty):  # noqa: F811
    studies = Studies("s", 0, plans(3, 3, ("relu",)), sampler="tpe", max_retries=0, storage=address(empty, tmp_path))
    for outside in (1.5, -1.0, 0.0):
        studies.tell(studies.ask().uid, Told((1.0, 1.0), usable=True, outside=outside))
    best = {trial.user_attrs["uid"] for trial in studies._studies["relu"].best_trials}
    constraints = [trial.constraints for trial in studies._trials("relu")]
    studies.close()
    assert best == {"relu-0001", "relu-0002"}
    assert constraints[0] == {"unusable": -1.0, "outside": 1.5}


def run(folder, empty, objectives, seed, sampler="tpe", budget=24):  # noqa: F811
    folder.mkdir()
    studies = Studies(
        "s",
        seed,
        plans(budget, 6, ("relu",)),
        sampler=sampler,
        max_retries=0,
        storage=address(empty, folder),
        wanted=objectives.wanted,
    )
    asked = spend(studies, objectives)
    trials = studies._trials("relu")
    studies.close()
    points = [tuple(outcome(one.params).values) for one in asked]
    return [2 ** points[i][0] for i in frontier_order(points)], [2**l0 for l0, _ in points], trials


def test_a_range_makes_the_frontier_even_and_draws_the_search_inside(tmp_path, empty):  # noqa: F811
    """The problem covers L0 from 1/6 to 256; four octaves in the middle are asked for. Mean over seeds."""
    low, high = 4.0, 64.0
    narrow = Objectives(OBJECTIVES.l0, OBJECTIVES.delta_ce, (low, high))
    widest, inside = {}, {}
    for name, objectives in {"free": OBJECTIVES, "asked": narrow}.items():
        runs = [run(tmp_path / f"{name}-{seed}", empty, objectives, seed) for seed in range(2)]
        widest[name] = np.mean([unevenness(frontier, low, high) for frontier, _, _ in runs])
        inside[name] = np.mean([low <= l0 <= high for _, all_, _ in runs for l0 in all_])
        aims = [trial.user_attrs.get("aim") for _, _, trials in runs for trial in trials]
        assert any(aims) is (name == "asked")
    assert widest["asked"] < 0.8 * widest["free"], widest
    assert inside["asked"] > 1.3 * inside["free"], inside


def test_a_gap_that_is_aimed_at_survives_a_retry(tmp_path, empty):  # noqa: F811
    objectives = Objectives(OBJECTIVES.l0, OBJECTIVES.delta_ce, (4.0, 64.0))
    made = plans(8, 3, ("relu",))
    studies = Studies(
        "s", 0, made, sampler="tpe", max_retries=1, storage=address(empty, tmp_path), wanted=objectives.wanted
    )
    spend(studies, objectives, limit=3)
    aimed = studies.ask()
    before = studies._trials("relu")[-1]
    studies.fail(aimed.uid)
    again = studies.ask()
    after = studies._trials("relu")[-1]
    studies.close()
    assert (again.uid, again.params) == (aimed.uid, aimed.params)
    low, high = before.user_attrs["aim"]
    assert math.log2(4.0) <= low < high <= math.log2(64.0)
    assert after.user_attrs["aim"] == before.user_attrs["aim"]
    assert (before.state, after.state) == (TrialState.RUNNING, TrialState.RUNNING)


@pytest.mark.parametrize("sampler", ["gp", "nsga2"])
def test_every_model_takes_the_range(tmp_path, empty, sampler):  # noqa: F811
    objectives = Objectives(OBJECTIVES.l0, OBJECTIVES.delta_ce, (4.0, 64.0))
    _, l0, trials = run(tmp_path / sampler, empty, objectives, 0, sampler=sampler, budget=8)
    assert len(l0) == 8
    assert any("aim" in trial.user_attrs for trial in trials)
