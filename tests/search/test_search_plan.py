"""What is decided before the first trial."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler
from search_helpers import ARCHITECTURES, tiny_space

from vsae_search.errors import UserInputError
from vsae_search.search import trial_budgets
from vsae_search.search.propose.budgets import GENERATION, startup_trials
from vsae_search.search.propose.samplers import GP_TRIALS, sampler_for, spread_trials
from vsae_search.search.reference import reference_point
from vsae_search.search.resources.cluster import Cluster
from vsae_search.search.store.environment import source_commit, versions
from vsae_search.space import ResourcesSpec
from vsae_search.subjects import Baseline


@pytest.mark.parametrize(
    ("trials", "expected"),
    [(4, {"topk": 2, "relu": 2}), (5, {"topk": 3, "relu": 2}), (3, {"topk": 2, "relu": 1})],
)
def test_budgets_are_equal_and_nobody_goes_without(trials, expected):
    assert trial_budgets(tiny_space(search={"trials": trials})) == expected


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, [5, 5, 6]),
        ({"startup_trials": 2}, [2, 2, 2]),
        ({"sampler": "nsga2"}, [GENERATION] * 3),
        ({"sampler": "nsga2", "allocation": "joint"}, [GENERATION // 2] * 3),
        ({"allocation": "joint"}, [5, 5, 5]),  # ten in all, and there are two architectures
    ],
)
def test_startup_trials(search, expected):
    space = tiny_space(search={"trials": 48, **search})
    assert [startup_trials(space, searched) for searched in (0, 2, 3)] == expected


def test_a_small_grid_ends_before_its_share_is_spent():
    architectures = {"topk": {"d_sae": 16, "k": {"choice": [1, 2, 4]}}, "relu": ARCHITECTURES["relu"]}
    space = tiny_space(search={"trials": 20, "sampler": "grid"}, architectures=architectures)
    assert trial_budgets(space) == {"topk": 3, "relu": 10}


def test_samplers():
    kinds = {
        ("auto", 0): GPSampler,
        ("auto", GP_TRIALS): GPSampler,
        ("auto", GP_TRIALS + 1): TPESampler,
        ("gp", 10_000): GPSampler,
        ("tpe", 0): TPESampler,
        ("random", 0): RandomSampler,
        ("nsga2", 0): NSGAIISampler,
    }
    for (name, finished), kind in kinds.items():
        assert type(sampler_for(name, seed=0, finished=finished)) is kind
    # a Gaussian process knows nothing of hyper-parameters that only some trials have
    assert type(sampler_for("auto", seed=0, finished=0, conditional=True)) is TPESampler
    assert type(sampler_for("gp", seed=0, finished=0, conditional=True)._independent_sampler) is TPESampler
    names = ("auto", "gp", "tpe", "nsga2", "random", "qmc", "grid")
    assert [spread_trials(name, 5, 12) for name in names] == [5, 5, 5, 5, 0, 12, 12]
    assert spread_trials("auto", 5, 3) == 3


def baseline(clean: float, mean: float) -> Baseline:
    return Baseline(np.full(3, clean), np.full(3, 9.0), np.array([mean - 1, mean, mean + 1]))


def test_the_reference_point_is_measured():
    point = reference_point(tiny_space(), baseline(0.5, 2.0))
    assert (point.l0, point.delta_ce, point.source) == (16.0, 1.5, "measured")


@pytest.mark.parametrize(
    ("d_sae", "widest"), [({"choice": [8, 64, 32]}, 64), ({"int": [4, 20]}, 20), ({"log": [4, 30]}, 30), (24, 24)]
)
def test_the_widest_autoencoder_of_all_architectures_counts(d_sae, widest):
    space = tiny_space(architectures={**ARCHITECTURES, "topk": {"d_sae": d_sae, "k": 2}})
    assert reference_point(space, baseline(0.0, 1.0)).l0 == widest


def test_the_reference_point_is_given():
    space = tiny_space(objectives={"reference": {"l0": 5.0, "delta_ce": 0.1}})
    point = reference_point(space, baseline(0.0, 1.0))
    assert (point.l0, point.delta_ce, point.source) == (5.0, 0.1, "given")


def test_a_range_of_l0_ends_at_the_reference_point():
    point = reference_point(tiny_space(objectives={"l0_range": [1, 4]}), baseline(0.5, 2.0))
    assert (point.l0, point.source, point.l0_range) == (4.0, "measured", (1.0, 4.0))
    assert [point.counts(l0) for l0 in (0.5, 1.0, 4.0, 4.5)] == [False, True, True, False]
    free = reference_point(tiny_space(), baseline(0.5, 2.0))
    assert free.counts(1e9)


def test_a_subject_that_does_not_mind_has_no_reference_point():
    with pytest.raises(UserInputError, match="does not depend on them"):
        reference_point(tiny_space(), baseline(1.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "trials", "expected"),
    [
        ({}, 100, 8),
        ({}, 3, 3),
        ({"cpus_per_trial": 3}, 100, 2),
        ({"cpus_per_trial": 0.5}, 100, 16),
        ({"max_concurrent": 2}, 100, 2),
        ({"gpus_per_trial": 0.5}, 100, 4),
    ],
)
def test_concurrency(spec, trials, expected):
    cluster = Cluster({"CPU": 8.0, "GPU": 2.0}, nodes=1, logs="")
    assert cluster.concurrency(ResourcesSpec(**spec), trials) == expected


def test_a_trial_that_cannot_be_placed_is_noticed():
    cluster = Cluster({"CPU": 2.0}, nodes=1, logs="")
    assert cluster.missing(ResourcesSpec()) is None
    text = cluster.missing(ResourcesSpec(cpus_per_trial=4, gpus_per_trial=1))
    assert text == "4 CPU (the cluster has 2) and 1 GPU (the cluster has 0)"


def test_versions_name_what_numbers_depend_on():
    assert {"python", "torch", "ray", "optuna", "vsae_search"} <= set(versions())


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_state_of_the_source_tree(tmp_path, monkeypatch):
    assert source_commit(tmp_path) == (None, None)
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "first")
    commit, dirty = source_commit(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "untracked").write_text("1")
    assert source_commit(tmp_path) == (commit, False)
    (tmp_path / "a").write_text("2")
    assert source_commit(tmp_path) == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert source_commit(tmp_path) == (None, None)


def test_reading_a_sweep_imports_neither_ray_nor_optuna_nor_torch():
    code = (
        "import sys; from vsae_search.search import load_sweep, trial_budgets; "
        "print([name for name in ('ray', 'optuna', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
