"""Beginning with configurations that are known to be good."""

from __future__ import annotations

import pytest
from search_helpers import ARCHITECTURES, tiny_space
from search_problem import OBJECTIVES, address, empty, spend  # noqa: F401 - a fixture

from vsae_search.errors import UserInputError
from vsae_search.search.propose.planning import open_studies, plans_of
from vsae_search.search.propose.warm_start import warm_start
from vsae_search.search.records import SWEEP_FILE, TRIAL_FILE, SweepRecord, TrialRecord, trial_directory, write_record


def trial(uid, params, l0, delta_ce, state="completed"):
    name, number = uid.rsplit("-", 1)
    metrics = {"l0": l0, "delta_ce": delta_ce}
    return TrialRecord(
        uid=uid, architecture=name, number=int(number), params=params, seed=0, state=state, metrics=metrics
    )


TRIALS = [
    trial("topk-0000", {"d_sae": 16, "k": 1, "lr": 2e-3}, 1.0, 0.9),
    trial("topk-0001", {"d_sae": 16, "k": 2, "lr": 3e-3}, 2.0, 0.5),
    trial("topk-0002", {"d_sae": 16, "k": 4, "lr": 9e-3}, 4.0, 0.6),  # dominated
    trial("topk-0003", {"d_sae": 16, "k": 4, "lr": 5e-2}, 4.0, 0.3),  # the learning rate is out of range
    trial("topk-0004", {"d_sae": 16, "k": 4, "lr": 1e-3}, 0.1, 0.1, state="stopped"),
    trial("topk-0005", {"d_sae": 16, "k": 4, "lr": 5e-3}, 4.5, 0.2),
    trial("relu-0000", {"d_sae": 16, "lr": 5e-3, "l1_coefficient": 3.0}, 2.0, 0.5),  # searched there, not here
    trial("relu-0001", {"d_sae": 16, "lr": 6e-3}, 4.0, 0.4),
    trial("pca-0000", {"k": 1}, 1.0, 1.0),
]


@pytest.fixture
def earlier(tmp_path):
    folder = tmp_path / "old"
    (folder / "trials").mkdir(parents=True)
    write_record(folder / SWEEP_FILE, SweepRecord(name="old", digest="0", seed=0, status="completed"))
    for one in TRIALS:
        trial_directory(folder, one.uid).mkdir()
        write_record(trial_directory(folder, one.uid) / TRIAL_FILE, one)
    return folder


def test_what_fits_of_a_frontier_is_taken_and_the_rest_is_explained(earlier):
    start = warm_start(tiny_space(search={"trials": 12}), None, earlier)
    assert start.source == "old"
    assert [one.uid for one in start.trials] == ["topk-0000", "topk-0001", "topk-0005", "relu-0001"]
    assert start.trials[0].params == {"d_sae": 16, "k": 1, "lr": 2e-3}
    reasons = {one.uid: one.reason for one in start.left_out}
    assert set(reasons) == {"topk-0003", "relu-0000", "pca"}
    assert reasons["topk-0003"] == "0.05 is outside of the range of lr, 0.001 to 0.01"
    assert reasons["relu-0000"].startswith("l1_coefficient keeps its default here; give it a range that holds 3.0")
    assert reasons["pca"] == "the architecture is not in this search space"


def test_at_most_half_of_the_trials_are_spent_on_it(earlier):
    start = warm_start(tiny_space(search={"trials": 8}), None, earlier)
    assert [one.uid for one in start.trials] == ["topk-0000", "topk-0005", "relu-0001"]  # both ends of the frontier
    assert {one.uid: one.reason for one in start.left_out}["topk-0001"] == "beyond half of the 4 trials of topk"


def test_only_what_lies_in_the_wanted_range_is_taken(earlier):
    space = tiny_space(search={"trials": 12}, objectives={"l0_range": [1.5, 4.2]})
    assert [one.uid for one in warm_start(space, None, earlier).trials] == ["topk-0001", "relu-0001"]


def test_a_sweep_keeps_what_it_began_with(earlier, tmp_path):
    space = tiny_space(search={"trials": 12})
    start = warm_start(space, None, earlier)
    record = SweepRecord(name="tiny", digest="1", seed=0, status="interrupted", warm_start=start)
    (trial_directory(earlier, "topk-0000") / TRIAL_FILE).unlink()
    assert warm_start(space, record, None) == start
    assert warm_start(space, record, earlier) == start
    with pytest.raises(UserInputError, match="cannot be started again from"):
        warm_start(space, record, tmp_path)
    with pytest.raises(UserInputError, match="was started from nothing"):
        warm_start(space, record.model_copy(update={"warm_start": None}), earlier)
    with pytest.raises(UserInputError, match="no sweep in"):
        warm_start(space, None, tmp_path)


def test_configurations_come_first_count_as_trials_and_are_run_once(earlier, tmp_path, empty):  # noqa: F811
    """Through a restart after every trial: the order is search.enqueue, the earlier sweep, start-up points, model."""
    enqueue = [{"architecture": "topk", "k": 2}, {"architecture": "relu", "lr": 4e-3}]
    space = tiny_space(search={"trials": 10, "sampler": "tpe", "startup_trials": 1, "enqueue": enqueue})
    start = warm_start(space, None, earlier)
    asked = []
    for _ in range(10):
        studies = open_studies(space, address(empty, tmp_path), start)
        asked += spend(studies, limit=1)
        is_over = studies.exhausted()
        studies.close()
    assert is_over
    topk = [one for one in asked if one.architecture == "topk"]
    relu = [one for one in asked if one.architecture == "relu"]
    assert [one.uid for one in topk] == [f"topk-{number:04d}" for number in range(5)]
    sobol = plans_of(space)["topk"].proposals
    points = [sobol.params(sobol.point(index)) for index in range(2)]
    assert topk[0].params == {**points[0], "k": 2}  # what is not named comes from the Sobol sequence
    assert [one.params for one in topk[1:3]] == [TRIALS[0].params, TRIALS[5].params]
    assert topk[3].params == points[0]
    assert topk[4].params not in points
    assert [one.params["lr"] for one in relu[:2]] == [4e-3, 6e-3]


def test_a_grid_begins_with_them_too(tmp_path, empty):  # noqa: F811
    enqueue = [{"architecture": "topk", "k": 4, "lr": 7e-3}]
    architectures = {"topk": ARCHITECTURES["topk"]}
    space = tiny_space(search={"trials": 7, "sampler": "grid", "enqueue": enqueue}, architectures=architectures)
    studies = open_studies(space, address(empty, tmp_path))
    asked = spend(studies)
    studies.close()
    assert asked[0].params["lr"] == 7e-3
    rest = {(one.params["k"], round(one.params["lr"], 9)) for one in asked[1:]}
    low, high = round(1e-3 * 10**0.25, 9), round(1e-3 * 10**0.75, 9)
    assert rest == {(k, lr) for k in (1, 2, 4) for lr in (low, high)}
    assert len(asked) == 7


def test_the_points_of_a_grid_belong_to_the_identity_of_a_sweep():
    digests = [tiny_space(search={"trials": trials, "sampler": "grid"}).digest() for trials in (4, 6)]
    assert digests[0] != digests[1]
    digests = [tiny_space(search={"trials": trials, "sampler": "qmc"}).digest() for trials in (4, 6)]
    assert digests[0] == digests[1]
