"""Measures of toy models by hand, and the known figures in ones that are trained."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vsae_search.space import FeatureSpec, ToyRecipe
from vsae_search.subjects.features import build_features
from vsae_search.subjects.toy_geometry import (
    axis_shares,
    firing_shares,
    look_for,
    polygon_deviation,
    superposition_metrics,
)
from vsae_search.subjects.toy_model import ToyModel
from vsae_search.subjects.toy_training import Snapshot, fit_toy_model

PAIRS = build_features(FeatureSpec(count=4, probability=0.2, sets=[{"kind": "correlated", "size": 2, "count": 2}]))
FREE = build_features(FeatureSpec(count=5, probability=0.1))


def directions(*degrees, length=1.0):
    angles = np.radians(degrees)
    return length * np.stack([np.cos(angles), np.sin(angles)])


def test_metrics_by_hand():
    # one perfect feature, one of norm 0.6 (norm^2 0.36: not represented); features always present and uniform
    features = build_features(FeatureSpec(count=2, probability=1.0, importance=(1.0, 0.5)))
    model = ToyModel(features, "basic", np.diag([1.0, 0.6]).astype(np.float32), np.zeros(2, np.float32), "by hand")
    got = superposition_metrics(model)
    second = 0.5 * (1 - 0.36) ** 2 / 3  # weight times E[x^2] times the square of what is missing
    assert got["row_loss"] == pytest.approx(second, rel=0.02)
    assert got["toy_loss"] == pytest.approx(got["row_loss"] / 2)
    assert got["toy_fvu"] == pytest.approx(second / (1.5 / 12), rel=0.02)
    assert got["features_represented"] == 1
    assert got["features_per_dimension"] == pytest.approx(1.36 / 2)
    assert got["mean_dimensionality"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("figure", "W_DM", "measured", "found"),
    [
        ("antipodal_pairs", directions(0, 180, 90, 270), -1.0, True),
        ("antipodal_pairs", directions(0, 180, 90, 250), -math.cos(math.radians(20)), False),
        ("antipodal_pairs", directions(0, 180, 90, 270, length=0.5), -1.0, False),  # nothing is represented
        ("orthogonal_pairs", directions(0, 90, 180, 268), math.cos(math.radians(88)), True),
        ("orthogonal_pairs", directions(0, 90, 180, 280), math.cos(math.radians(100)), False),
        ("polygon", directions(10, 82, 154, 226, 298), 0.0, True),
        ("polygon", directions(10, 84, 154, 226, 298), 2.0, True),
        ("polygon", directions(10, 86, 154, 226, 298), 4.0, False),
        ("privileged_basis", np.array([[1, 0, 0.1], [0, 1, 0.1]]), 1.0, True),  # the third is not represented
        ("privileged_basis", np.array([[1, 0.6], [0.2, 0.6]]), 0.5, False),
    ],
)
def test_figures_by_hand(figure, W_DM, measured, found):
    got = look_for(figure, W_DM, PAIRS if W_DM.shape[1] == 4 else FREE)
    assert got.measured == pytest.approx(measured, abs=1e-12)
    assert got.found is found


def test_a_polygon_is_the_same_in_any_order_and_rotation():
    generator = np.random.default_rng(0)
    order = generator.permutation(7)
    assert polygon_deviation(directions(*(33.3 + 360 / 7 * order))) == pytest.approx(0, abs=1e-9)
    assert polygon_deviation(directions(0, 1, 2)) == pytest.approx(238)  # the gap of 358 degrees


def test_share_on_an_axis():
    np.testing.assert_allclose(axis_shares(np.array([[3, 0, 1], [4, 0, -1]])), [0.64, 0, 0.5])


def test_firing_of_neurons():
    # the first neuron fires when feature 0 is on, the second never, the third always
    W_DM = np.zeros((3, 5), dtype=np.float32)
    W_DM[0, 0], W_DM[2] = 1, 1
    got = firing_shares([Snapshot(0, W_DM, np.zeros(5, np.float32))], FREE, "firing")
    assert got.shape == (1, 3)
    assert got[0, 1:].tolist() == [0, 1]
    some_on = 1 - 0.9**5  # rows without a feature are left out
    assert got[0, 0] == pytest.approx(0.1 / some_on, abs=0.02)


SETTINGS = {
    "antipodal_pairs": (0.2, [{"kind": "anticorrelated", "size": 2, "count": 2}], 4, 2, "basic"),
    "orthogonal_pairs": (0.02, [{"kind": "correlated", "size": 2, "count": 2}], 4, 2, "basic"),
    "polygon": (0.03, [], 5, 2, "basic"),
    "privileged_basis": (0.75, [], 10, 5, "neuron"),
}


@pytest.mark.parametrize("figure", SETTINGS)
def test_known_figures_are_found_by_training(figure):
    probability, sets, count, d_hidden, kind = SETTINGS[figure]
    importance = {"decay": 0.75} if kind == "neuron" else 1.0
    features = build_features(FeatureSpec(count=count, probability=probability, sets=sets, importance=importance))
    recipe = ToyRecipe(steps=2500, batch_size=512, lr=5e-3)
    losses, figures = [], []
    for seed in range(4):
        name = f"{figure} {seed}"
        trained = fit_toy_model(recipe, features, name, d_hidden=d_hidden, neuron=kind == "neuron")
        losses.append(trained.last_loss)
        figures.append(look_for(figure, trained.W_DM, features))
    best = figures[int(np.argmin(losses))]
    assert best.found, (losses, figures)
    limit = {"antipodal_pairs": -0.95, "orthogonal_pairs": 0.1, "polygon": 3, "privileged_basis": 0.9}[figure]
    measured = best.measured if figure != "orthogonal_pairs" else abs(best.measured)
    assert measured >= limit if figure == "privileged_basis" else measured < limit
