"""One study for all architectures."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution
from search_problem import OBJECTIVES, RANGES, address, empty, outcome, plans, spend  # noqa: F401 - a fixture

from vsae_search.search.propose.plans import Field, Plan
from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.propose.studies import Studies, Told
from vsae_search.space import ChoiceRange


def test_hyper_parameters_that_mean_the_same_are_one():
    made = plans(4, 2)
    wide = {"lr": RANGES["topk"]["lr"], "k": ChoiceRange(choices=(1, 64))}
    made["batch_topk"] = Plan(Proposals.of(wide, seed=3), 4, 2)
    source = Field.all(made, "tpe", joint=True)["joint"]
    assert set(source.distributions("relu")) == {"architecture", "lr", "l1"}
    assert set(source.distributions("topk")) == {"architecture", "lr", "topk.k", "d_sae"}
    assert set(source.distributions("batch_topk")) == {"architecture", "lr", "batch_topk.k"}
    assert source.distributions("topk")["architecture"] == CategoricalDistribution(["relu", "topk", "batch_topk"])
    architecture, stored = source.spread(1)
    assert architecture == stored["architecture"] == "topk"
    params = source.params(architecture, stored)
    assert set(params) == {"lr", "k", "d_sae"}
    assert params["k"] in RANGES["topk"]["k"].choices


@pytest.mark.parametrize("sampler", ["auto", "nsga2", "random"])
def test_one_study_spends_the_whole_budget_and_numbers_every_architecture(tmp_path, empty, sampler):  # noqa: F811
    made = plans(5, 3)
    studies = Studies("s", 1, made, sampler=sampler, max_retries=0, storage=address(empty, tmp_path), joint=True)
    asked = spend(studies)
    assert list(studies._studies) == ["joint"]
    assert studies.exhausted()
    spent = studies.spent()
    studies.close()
    assert len(asked) == sum(spent.values()) == 10
    for name, count in spent.items():
        own = [one for one in asked if one.architecture == name]
        assert [one.uid for one in own] == [f"{name}-{number:04d}" for number in range(count)]
        assert all(set(one.params) == set(RANGES[name]) for one in own)
    if sampler != "random":  # the start-up points take turns
        assert [one.architecture for one in asked[:6]] == ["relu", "topk"] * 3


def test_a_joint_study_goes_on_after_a_restart(tmp_path, empty):  # noqa: F811
    def run(folder, *, restart):
        folder.mkdir()
        made, asked = plans(4, 2), []
        for _ in range(8 if restart else 1):
            studies = Studies("s", 1, made, sampler="tpe", max_retries=0, storage=address(empty, folder), joint=True)
            asked += spend(studies, limit=1 if restart else 8)
            studies.close()
        return asked

    assert run(tmp_path / "a", restart=False) == run(tmp_path / "b", restart=True)


def test_a_joint_study_leaves_an_architecture_that_only_diverges(tmp_path, empty):  # noqa: F811
    studies = Studies("s", 0, plans(12, 2), sampler="tpe", max_retries=0, storage=address(empty, tmp_path), joint=True)
    while (one := studies.ask()) is not None:
        bad = one.architecture == "relu"
        studies.tell(one.uid, Told(OBJECTIVES.worst(), usable=False) if bad else outcome(one.params))
    spent = studies.spent()
    studies.close()
    assert spent["relu"] <= 6  # of them two start-up points; an equal share is 12
    assert sum(spent.values()) == 24


def test_samplers_that_learn_nothing_share_equally(tmp_path, empty):  # noqa: F811
    studies = Studies("s", 0, plans(3, 1), sampler="qmc", max_retries=0, storage=address(empty, tmp_path), joint=True)
    spend(studies)
    assert studies.spent() == {"relu": 3, "topk": 3}
    studies.close()


def test_a_gaussian_process_chooses_the_architecture_and_leaves_the_rest_to_tpe(tmp_path, empty):  # noqa: F811
    studies = Studies("s", 0, plans(3, 2), sampler="gp", max_retries=0, storage=address(empty, tmp_path), joint=True)
    asked = spend(studies)
    studies.close()
    assert len({one.uid for one in asked}) == 6
    assert all(set(one.params) == set(RANGES[one.architecture]) for one in asked)
