from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vsae_search.tracking.content import (
    Content,
    Point,
    as_text,
    end_content,
    flatten,
    milliseconds,
    numbers,
    sweep_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsae_search.search import SweepRecord, TrialRecord


def test_a_trial_in_mlflow_terms(make_trial: Callable[..., TrialRecord]) -> None:
    content = end_content(make_trial(2, attempt=1).model_dump(mode="json"), 77)
    assert content.params == {"architecture": "topk", "d_sae": "64", "k": "4", "lr": "0.001", "seed": "102"}
    assert content.tags == {
        "vsae.kind": "trial",
        "vsae.trial_uid": "topk-0002",
        "vsae.architecture": "topk",
        "vsae.state": "completed",
        "vsae.attempt": "1",
    }
    assert set(content.points) == {
        Point("rung/l0", 3.0, 77, 500),
        Point("rung/delta_ce", 0.2, 77, 500),
        Point("rung/l0", 6.0, 77, 1000),
        Point("rung/delta_ce", 0.1, 77, 1000),
        Point("l0", 6.0, 77, 1000),
        Point("delta_ce", 0.1, 77, 1000),
        Point("train_s", 1.5, 77, 1000),
        Point("evaluate_s", 0.0, 77, 1000),
        Point("wall_s", 2.0, 77, 1000),
        Point("overhead_s", 0.5, 77, 1000),
    }


def test_a_trial_that_reached_no_rung(make_trial: Callable[..., TrialRecord]) -> None:
    content = end_content(make_trial(state="failed", rungs=(), metrics={}).model_dump(mode="json"), 77)
    assert {point.key for point in content.points} == {"train_s", "evaluate_s", "wall_s", "overhead_s"}
    assert {point.step for point in content.points} == {0}


def test_a_sweep_without_what_is_only_known_later(sweep_record: SweepRecord) -> None:
    bare = sweep_record.model_copy(update={"reference": None, "git_commit": None, "description": ""})
    content = sweep_content(bare.model_dump(mode="json"))
    assert not [key for key in content.tags if "reference" in key or "git.commit" in key or "note" in key]
    assert "tracking.uri" not in content.params
    assert content.params["training.batch_size"] == "1024"
    assert all(isinstance(value, str) for value in [*content.params.values(), *content.tags.values()])


def test_content_of_one_run_adds_up() -> None:
    content = Content({"a": "1"}, {"state": "running"}, [Point("x", 1.0, 0, 0)])
    content.add(Content({"b": "2"}, {"state": "done"}, [Point("x", 2.0, 0, 1)]))
    assert content == Content({"a": "1", "b": "2"}, {"state": "done"}, [Point("x", 1.0, 0, 0), Point("x", 2.0, 0, 1)])


def test_flatten_keeps_lists_and_empty_mappings() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}, "x.") == {"x.a.b": 1, "x.a.c": {}, "x.d": [1]}


@pytest.mark.parametrize(
    ("value", "text"), [(1e-3, "0.001"), (True, "True"), ("a", "a"), ([1, "b"], '[1, "b"]'), (None, "None")]
)
def test_values_as_text(value: object, text: str) -> None:
    assert as_text(value, 100) == text


def test_long_values_are_cut_visibly() -> None:
    assert as_text("x" * 20, 5) == "xxxx…"
    assert as_text("x" * 5, 5) == "xxxxx"


def test_moments() -> None:
    assert milliseconds("1970-01-01T00:00:01.5+00:00", 9) == 1500
    assert milliseconds("", 9) == 9


def test_non_finite_numbers_are_read_back() -> None:
    found = numbers({"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1})
    assert found["a"] != found["a"]
    assert (found["b"], found["c"], found["d"]) == (float("inf"), float("-inf"), 1.0)
