from __future__ import annotations

import numpy as np
import pytest
import torch

from vsae_search.errors import Diverged
from vsae_search.space import FeatureSpec, ToyModelSubject
from vsae_search.subjects.features import build_features
from vsae_search.subjects.toy_training import loss_and_gradients, train_toy_model

SMALL = ToyModelSubject(
    features=FeatureSpec(count=6, probability=0.2, importance={"decay": 0.8}), d_hidden=3, steps=300, batch_size=64
)


@pytest.mark.parametrize("neuron", [False, True])
def test_gradients_agree_with_automatic_differentiation(neuron):
    generator = torch.Generator().manual_seed(0)
    x_BM = torch.rand(50, 7, generator=generator, dtype=torch.float64)
    x_BM *= torch.rand(50, 7, generator=generator) < 0.4
    W_DM = torch.randn(4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    b_M = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    importance_M = torch.rand(7, generator=generator, dtype=torch.float64)
    h_BD = x_BM @ W_DM.T
    h_BD = torch.relu(h_BD) if neuron else h_BD
    loss = (importance_M * (x_BM - torch.relu(h_BD @ W_DM + b_M)) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        got = loss_and_gradients(x_BM, W_DM, b_M, importance_M, neuron=neuron)
    torch.testing.assert_close(got.loss, loss.detach())
    torch.testing.assert_close(got.W_DM, W_DM.grad)
    torch.testing.assert_close(got.b_M, b_M.grad)


def test_training_is_deterministic_and_restores_the_threads():
    features = build_features(SMALL.features)
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    first = train_toy_model(SMALL, features, "a")
    torch.manual_seed(2)  # the global generator must not matter
    second = train_toy_model(SMALL, features, "a")
    other = train_toy_model(SMALL, features, "b")
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(first.W_DM, second.W_DM)
    np.testing.assert_array_equal(first.b_M, second.b_M)
    assert first.loss_curve == second.loss_curve
    assert not np.array_equal(first.W_DM, other.W_DM)


def test_training_lowers_the_loss():
    curve = train_toy_model(SMALL, build_features(SMALL.features), "a").loss_curve
    assert len(curve) == 101
    assert np.mean(curve[-5:]) < 0.4 * curve[0]


def test_one_step_is_one_step_of_adam():
    spec = SMALL.model_copy(update={"steps": 1, "lr": 0.01})
    features = build_features(spec.features)
    after = train_toy_model(spec, features, "a")
    still = train_toy_model(spec.model_copy(update={"lr": 1e-12}), features, "a")
    moved = np.abs(after.W_DM - still.W_DM)
    assert moved.max() == pytest.approx(0.01, rel=1e-3)  # Adam's first step is lr in every coordinate with a gradient
    # Xavier: standard deviation sqrt(2 / (3 + 6)); 18 draws
    assert still.W_DM.std() == pytest.approx(np.sqrt(2 / 9), rel=0.5)
    np.testing.assert_allclose(still.b_M, 0, atol=1e-9)


def test_divergence_is_an_error():
    spec = SMALL.model_copy(update={"lr": 1e30, "steps": 30})
    with pytest.raises(Diverged, match="learning rate 1e\\+30"):
        train_toy_model(spec, build_features(spec.features), "a")
