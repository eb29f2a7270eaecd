from __future__ import annotations

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vsae_search.search.propose.proposals import Proposals
from vsae_search.search.seeds import derive_seed
from vsae_search.space import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange

RANGES = {
    "lr": LogRange(low=1e-4, high=1e-2),
    "k": LogRange(low=4, high=64, integer=True),
    "d_sae": ChoiceRange(choices=(1024, 256, 512)),
    "tied": ChoiceRange(choices=(True, False)),
    "mode": ChoiceRange(choices=("a", "b", None)),
    "steps": IntRange(low=1, high=3),
    "alpha": UniformRange(low=-1.0, high=1.0),
    "fixed": ConstantRange(value=7),
    "only": ChoiceRange(choices=("x",)),
}


@pytest.fixture
def proposals() -> Proposals:
    return Proposals.of(RANGES, seed=5)


def test_every_range_has_its_distribution(proposals):
    assert proposals.distributions == {
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
        "k": IntDistribution(4, 64, log=True),
        "d_sae": IntDistribution(0, 2),
        "tied": CategoricalDistribution((True, False)),
        "mode": CategoricalDistribution(("a", "b", None)),
        "steps": IntDistribution(1, 3),
        "alpha": FloatDistribution(-1.0, 1.0),
    }
    assert proposals.constants == {"fixed": 7, "only": "x"}


def test_numeric_choices_are_searched_in_order(proposals):
    stored = {"lr": 1e-3, "k": 5, "tied": True, "mode": None, "steps": 2, "alpha": 0.0}
    values = [proposals.params({**stored, "d_sae": index})["d_sae"] for index in range(3)]
    assert values == [256, 512, 1024]
    assert all(type(value) is int for value in values)


def test_constants_are_part_of_the_parameters(proposals):
    params = proposals.params(proposals.point(0))
    assert set(params) == set(RANGES)
    assert params["fixed"] == 7
    assert params["only"] == "x"


def test_ends_of_the_unit_interval_stay_inside():
    for name, dimension in Proposals.of(RANGES, seed=0).dimensions.items():
        for unit in (0.0, 0.5, math.nextafter(1.0, 0.0)):
            value = dimension.at(unit)
            assert dimension.distribution._contains(dimension.distribution.to_internal_repr(value)), (name, unit)


@pytest.mark.parametrize("name", ["steps", "d_sae", "tied", "mode"])
def test_discrete_values_are_equally_likely(proposals, name):
    dimension = proposals.dimensions[name]
    drawn = [dimension.at((index + 0.5) / 600) for index in range(600)]
    counts = {value: drawn.count(value) for value in drawn}
    assert len(set(counts.values())) == 1, counts


def test_log_ranges_are_even_in_the_logarithm(proposals):
    assert proposals.dimensions["lr"].at(0.5) == pytest.approx(1e-3)
    drawn = [proposals.dimensions["k"].at((index + 0.5) / 10_000) for index in range(10_000)]
    # a whole number k owns [k - 1/2, k + 1/2): its share is log((k + 1/2) / (k - 1/2)) of the whole
    whole = math.log(64.5 / 3.5)
    for k in (4, 8, 64):
        assert drawn.count(k) / 10_000 == pytest.approx(math.log((k + 0.5) / (k - 0.5)) / whole, abs=2e-4)


def test_points_do_not_depend_on_how_many_are_asked_for(proposals):
    early = [proposals.point(index) for index in range(6)]
    other = Proposals.of(RANGES, seed=5)
    other.point(40)
    assert [other.point(index) for index in range(6)] == early
    assert Proposals.of(RANGES, seed=6).point(0) != early[0]


def test_points_are_spread_evenly():
    proposals = Proposals.of({"alpha": UniformRange(low=0.0, high=1.0)}, seed=1)
    cells = sorted(int(proposals.point(index)["alpha"] * 8) for index in range(8))
    assert cells == list(range(8))


def test_nothing_to_search():
    proposals = Proposals.of({"k": ConstantRange(value=3)}, seed=0)
    assert proposals.point(4) == {}
    assert proposals.params({}) == {"k": 3}


def test_seeds_follow_from_names():
    assert derive_seed(0, "train", "topk-0001") == derive_seed(0, "train", "topk-0001")
    seeds = {derive_seed(0, "train", f"topk-{index:04d}") for index in range(1000)}
    assert len(seeds) == 1000
    assert derive_seed(1, "a") != derive_seed("1", "a")
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert all(0 <= seed < 2**31 for seed in seeds)
