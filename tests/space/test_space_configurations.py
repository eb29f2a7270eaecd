"""Configurations that are run first are checked against the search space that they belong to."""

from __future__ import annotations

import pytest

from vsae_search.errors import SearchSpaceError
from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange, load_space
from vsae_search.space.configurations import misfit, settled


def load(tmp_path, catalog, good_text, *lines):
    file = tmp_path / "space.yaml"
    file.write_text(good_text + "search:\n  trials: 4\n  enqueue:\n" + "".join(f"    - {line}\n" for line in lines))
    return load_space(file, catalog)


def test_configurations_take_the_types_of_their_ranges(tmp_path, catalog, good_text):
    space = load(tmp_path, catalog, good_text, "{architecture: relu, l1: 1}", "{architecture: topk, k: 2, d_sae: 8}")
    assert space.search.enqueued("relu") == ({"l1": 1.0},)
    assert type(space.search.enqueued("relu")[0]["l1"]) is float
    assert space.search.enqueued("topk") == ({"k": 2, "d_sae": 8},)


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("{k: 2}", 7, "search.enqueue.0: the key 'architecture' is missing"),
        ("{architecture: rellu}", 22, "'rellu' is not an architecture of this search space. Did you mean 'relu'?"),
        ("{architecture: relu, l2: 1}", 28, "'l2' is not a hyper-parameter of relu. Known: d_sae, lr, l1"),
        ("{architecture: relu, d_in: 4}", 28, "'d_in' is not a hyper-parameter of relu"),
        ("{architecture: relu, l1: 20}", 32, "20 is outside of the range of l1, 0.1 to 10"),
        ("{architecture: relu, l1: 200}", 32, "must be at most 100, not 200"),
        ("{architecture: relu, l1: often}", 32, "must be a number, not 'often'"),
        ("{architecture: relu, l1: [1]}", 32, "must be a single value"),
        ("{architecture: relu, lr: 0.5}", 32, "lr keeps its default here; give it a range that holds 0.5"),
        ("{architecture: topk, k: 3}", 31, "3 is not among 1, 2"),
        ("{architecture: topk, d_sae: 16}", 35, "d_sae is 8 here, not 16"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(tmp_path, catalog, good_text, line, column, message):
    with pytest.raises(SearchSpaceError) as caught:
        load(tmp_path, catalog, good_text, line)
    (problem,) = caught.value.problems
    first = good_text.count("\n") + 4
    assert (problem.line, problem.column) == (first, column), problem
    assert message in problem.message


def test_more_configurations_than_trials_are_refused(tmp_path, catalog, good_text):
    with pytest.raises(SearchSpaceError) as caught:
        load(tmp_path, catalog, good_text, *["{architecture: topk, k: 1}"] * 3)
    (problem,) = caught.value.problems
    assert "search.enqueue: 3 configurations of topk are more than its share of the trials, 2" in problem.message


@pytest.mark.parametrize(
    ("searched", "fits", "does_not"),
    [
        (LogRange(low=1e-3, high=1.0), [1e-3, 0.5, 1], [2, True, "x"]),
        (LogRange(low=1, high=8, integer=True), [1, 8, 4.0], [2.5, 9]),
        (UniformRange(low=-1.0, high=1.0), [-1, 0.5], [1.5]),
        (IntRange(low=2, high=4), [2, 4], [1, 2.5]),
        (ChoiceRange(choices=(1, "a", None)), [1, "a", None], [2, True, "b"]),
        (ConstantRange(value=True), [True], [1, False]),
    ],
)
def test_what_fits_a_range(searched, fits, does_not):
    assert [misfit({"x": searched}, "x", value) for value in fits] == [None] * len(fits)
    assert all(misfit({"x": searched}, "x", value) for value in does_not)


def test_settled_values():
    assert settled(LogRange(low=1, high=8, integer=True), 4.0) == 4
    assert type(settled(UniformRange(low=0.0, high=2.0), 1)) is float
    assert settled(ChoiceRange(choices=(1.0, 2.0)), 2) == 2.0
    assert settled(None, "x") == "x"
