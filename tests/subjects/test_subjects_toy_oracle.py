"""The torch toy model against the NumPy one, and the NumPy one against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from subjects import toy_oracle as oracle

from vsae_search.space import FeatureSpec, ToyRecipe
from vsae_search.subjects.features import build_features
from vsae_search.subjects.toy_model import ToyModel
from vsae_search.subjects.toy_training import _batches, fit_toy_model, initial_weights, loss_and_gradients

MODELS = ["basic", "neuron", "linear"]
STEPS = 30


def problem(seed=0, samples=12, hidden=3, features=5):
    generator = np.random.default_rng(seed)
    x_BM = generator.random((samples, features)) * (generator.random((samples, features)) < 0.5)
    W_DM, b_M = generator.standard_normal((hidden, features)), 0.3 * generator.standard_normal(features)
    return x_BM, W_DM, b_M, 0.1 + generator.random(features)


def differences(f, at, h=1e-6):
    """Central differences in every coordinate."""
    slope = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += h
        down[index] -= h
        slope[index] = (f(up) - f(down)) / (2 * h)
    return slope


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_oracle_agrees_with_finite_differences(model, seed):
    x_BM, W_DM, b_M, importance_M = problem(seed)
    dW_DM, db_M = oracle.gradients(x_BM, W_DM, b_M, importance_M, model)
    assert np.count_nonzero(dW_DM) > dW_DM.size / 2
    by_W = differences(lambda W: oracle.loss(x_BM, W, b_M, importance_M, model), W_DM)
    by_b = differences(lambda b: oracle.loss(x_BM, W_DM, b, importance_M, model), b_M)
    np.testing.assert_allclose(dW_DM, by_W, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(db_M, by_b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_the_oracle_agrees_with_automatic_differentiation(model):
    x_BM, W_DM, b_M, importance_M = problem(7)
    x, importance = torch.from_numpy(x_BM), torch.from_numpy(importance_M)
    W, b = torch.from_numpy(W_DM).requires_grad_(), torch.from_numpy(b_M).requires_grad_()
    h = x @ W.T
    z = (h.relu() if model == "neuron" else h) @ W + b
    loss = (importance * (x - (z if model == "linear" else z.relu())) ** 2).mean()
    loss.backward()
    dW_DM, db_M = oracle.gradients(x_BM, W_DM, b_M, importance_M, model)
    np.testing.assert_allclose(oracle.loss(x_BM, W_DM, b_M, importance_M, model), loss.item(), rtol=1e-13)
    np.testing.assert_allclose(dW_DM, W.grad, rtol=1e-11)
    np.testing.assert_allclose(db_M, b.grad, rtol=1e-11)


@pytest.mark.parametrize("model", ["basic", "neuron"])
def test_the_gradients_that_train_are_those_of_the_oracle(model):
    arrays = problem(3)
    got = loss_and_gradients(*(torch.from_numpy(array) for array in arrays), neuron=model == "neuron")
    dW_DM, db_M = oracle.gradients(*arrays, model)
    np.testing.assert_allclose(got.loss, oracle.loss(*arrays, model), rtol=1e-13)
    np.testing.assert_allclose(got.W_DM, dW_DM, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(got.b_M, db_M, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("model", ["basic", "neuron"])
@pytest.mark.parametrize(
    "recipe",
    [
        ToyRecipe(lr=0.01, batch_size=16, steps=STEPS),
        # single rows, passed over again and again, as in the dissertation's code
        ToyRecipe(lr=0.01, lr_schedule="constant", batch_size=1, steps=STEPS, num_rows=8, initial_deviation=0.01),
    ],
    ids=["cosine", "single rows"],
)
def test_training_is_that_of_the_oracle(model, recipe):
    features = build_features(FeatureSpec(count=5, probability=0.4, importance={"decay": 0.7}))
    trained = fit_toy_model(recipe, features, "oracle", d_hidden=3, neuron=model == "neuron", snapshots=2)
    W_DM = initial_weights(recipe, 5, 3, "oracle").astype(np.float64)
    np.testing.assert_array_equal(trained.snapshots[0].W_DM, W_DM)
    b_M, losses = np.zeros(5), []
    adam = oracle.Adam(W_DM, b_M)
    for step, x in enumerate(_batches(recipe, features, "oracle")):
        x_BM = x.numpy().astype(np.float64)
        losses.append(oracle.loss(x_BM, W_DM, b_M, features.importance_M, model))
        grads = oracle.gradients(x_BM, W_DM, b_M, features.importance_M, model)
        cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS)) if recipe.lr_schedule == "cosine" else 1.0
        adam.step(recipe.lr * cosine, grads)
    assert len(losses) == STEPS
    np.testing.assert_allclose(trained.W_DM, W_DM, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(trained.b_M, b_M, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(trained.loss_curve, losses, rtol=1e-3, atol=1e-7)
    last = STEPS // 10 if recipe.num_rows is None else recipe.num_rows
    np.testing.assert_allclose(trained.last_loss, np.mean(losses[-last:]), rtol=1e-3, atol=1e-7)
    assert [one.step for one in trained.snapshots] == [0, STEPS]
    np.testing.assert_array_equal(trained.snapshots[1].W_DM, trained.W_DM)


def test_fixed_rows_come_in_a_new_order_on_every_pass():
    recipe = ToyRecipe(batch_size=2, steps=10, num_rows=8)
    features = build_features(FeatureSpec(count=3, probability=1.0))
    rows_NM = np.concatenate([batch.numpy() for batch in _batches(recipe, features, "order")])
    assert rows_NM.shape == (20, 3)
    first, second = rows_NM[:8], rows_NM[8:16]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


@pytest.mark.parametrize("model", ["basic", "neuron"])
def test_the_frozen_model_computes_what_the_oracle_does(model):
    x_BM, W_DM, b_M, importance_M = problem(5)
    features = build_features(FeatureSpec(count=5, probability=0.5, importance=tuple(importance_M.tolist())))
    subject = ToyModel(features, model, W_DM.astype(np.float32), b_M.astype(np.float32), "frozen")
    got_BM = subject._output(subject._hidden(x_BM.astype(np.float32)))
    np.testing.assert_allclose(got_BM, oracle.output(x_BM, W_DM, b_M, model), rtol=1e-4, atol=1e-6)
