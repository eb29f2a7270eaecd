"""Hyper-parameters that an architecture inherits and does not use take no range, and are no part of its search."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field

from vsae_search.errors import SearchSpaceError
from vsae_search.saes import config_classes
from vsae_search.space import ConstantRange, LogRange, json_schema, load_space

TOY = Path(__file__).parents[2] / "search_spaces" / "toy.yaml"


class Trained(BaseModel):
    """Trained by gradient."""

    d_in: int = Field(gt=0)
    d_sae: int = Field(gt=0)
    lr: float = Field(default=1e-3, gt=0)


class Control(Trained):
    """Not trained by gradient."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"lr"})


CATALOG = {"trained": Trained, "control": Control}
HEAD = "name: x\nsubject: {type: toy_model, d_hidden: 4, features: {count: 8, probability: 0.1}}\n"


def load(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(HEAD + text)
    return load_space(path, CATALOG)


def refusal(tmp_path, text):
    with pytest.raises(SearchSpaceError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    return problem.line, problem.column, problem.message


def test_a_shared_range_goes_only_to_those_that_use_it(tmp_path):
    space = load(tmp_path, "shared: {d_sae: 8, lr: {log: [1e-3, 1e-2]}}\narchitectures: {trained: , control: }\n")
    assert space.ranges("trained") == {"d_sae": ConstantRange(value=8), "lr": LogRange(low=1e-3, high=1e-2)}
    assert space.ranges("control") == {"d_sae": ConstantRange(value=8)}


def test_a_range_of_its_own_is_refused(tmp_path):
    line, column, message = refusal(tmp_path, "shared: {d_sae: 8}\narchitectures: {control: {lr: 1e-3}}\n")
    assert (line, column) == (4, 27)
    assert message.endswith("lr has no effect on control; leave it out")


def test_a_shared_range_that_none_of_them_uses_is_refused(tmp_path):
    line, column, message = refusal(tmp_path, "shared: {d_sae: 8, lr: 1e-3}\narchitectures: {control: }\n")
    assert (line, column) == (3, 20)
    assert message.endswith("lr has no effect on any of the architectures; leave it out")


def test_the_schema_does_not_offer_it():
    properties = json_schema(CATALOG)["properties"]
    assert "lr" not in properties["architectures"]["properties"]["control"]["properties"]
    assert "lr" in properties["architectures"]["properties"]["trained"]["properties"]
    assert "lr" in properties["shared"]["properties"]


def test_the_first_sweep_searches_no_learning_rate_of_the_controls():
    space = load_space(TOY, config_classes())
    without = {name for name in space.architectures if "lr" not in space.ranges(name)}
    assert without == {"pca", "random_dictionary"}
