from __future__ import annotations

import math

import pytest

from vsae_search.space import TrainingSpec
from vsae_search.training.schedule import dead_window_tokens, lr_factor, step_at, warmup_steps


def spec(num_steps=100, **fields):
    return TrainingSpec(num_tokens=num_steps * 10, batch_size=10, **fields)


def test_learning_rate_rises_stays_and_falls():
    plan = spec(lr_warmup_fraction=0.1, lr_decay_fraction=0.2)
    factors = [lr_factor(step, plan) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([(20 - step) / 20 for step in range(20)])
    assert min(factors) > 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("cosine", lambda t: 0.5 * (1 + math.cos(math.pi * t))),
        ("quarter_cosine", lambda t: math.cos(0.5 * math.pi * t)),
    ],
)
def test_the_fall_can_be_a_cosine(shape, expected):
    plan = spec(lr_warmup_fraction=0.0, lr_decay_fraction=0.5, lr_decay_shape=shape)
    factors = [lr_factor(step, plan) for step in range(100)]
    assert factors[:50] == [1.0] * 50
    assert factors[50:] == pytest.approx([expected(step / 50) for step in range(50)])
    assert min(factors) > 0


def test_learning_rate_without_warm_up_or_decay():
    plan = spec(lr_warmup_fraction=0.0, lr_decay_fraction=0.0)
    assert {lr_factor(step, plan) for step in range(100)} == {1.0}


def test_warm_up_has_at_most_a_thousand_steps():
    assert warmup_steps(spec(1_000_000, lr_warmup_fraction=0.02)) == 1000
    assert warmup_steps(spec(100, lr_warmup_fraction=0.02)) == 2


def test_learning_rate_rises_again_after_resampling():
    plan = spec(lr_warmup_fraction=0.1, lr_decay_fraction=0.0)
    factors = [lr_factor(step, plan, restarted_at=50) for step in range(100)]
    assert factors[49] == 1.0
    assert factors[50:60] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[60] == 1.0
    assert min(factors) > 0


def test_rungs_and_dead_window():
    assert [step_at(fraction, spec()) for fraction in (0.25, 0.5, 1.0)] == [25, 50, 100]
    assert step_at(0.001, spec()) == 1
    assert dead_window_tokens(spec()) == 100
    assert dead_window_tokens(TrainingSpec(num_tokens=10**9)) == 10_000_000
    assert dead_window_tokens(spec(dead_window_tokens=7)) == 7
