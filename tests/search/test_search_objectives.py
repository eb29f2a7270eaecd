from __future__ import annotations

import math

import pytest

from vsae_search.search.objectives import DELTA_CE_FLOOR_FRACTION, L0_FLOOR, Objectives, usable


@pytest.fixture
def objectives() -> Objectives:
    return Objectives(l0=256.0, delta_ce=2.0)


def test_both_objectives_count_doublings(objectives):
    first, second = objectives.values(8.0, 0.25), objectives.values(16.0, 0.5)
    assert first == (3.0, -2.0)
    assert second == (4.0, -1.0)


def test_nothing_is_told_apart_beyond_the_reference_point(objectives):
    assert objectives.values(256.0, 2.0) == objectives.values(4096.0, 1e9) == objectives.worst()


def test_floors(objectives):
    assert objectives.values(0.0, -5.0) == (math.log2(L0_FLOOR), math.log2(2.0 * DELTA_CE_FLOOR_FRACTION))


def test_the_worst_point_is_never_better_than_a_real_one(objectives):
    worst = objectives.worst()
    for l0 in (0.0, 1.0, 300.0):
        for delta_ce in (-1.0, 0.1, 50.0):
            values = objectives.values(l0, delta_ce)
            assert values[0] <= worst[0]
            assert values[1] <= worst[1]


def test_a_tiny_reference_still_leaves_room():
    values = Objectives(l0=L0_FLOOR / 4, delta_ce=1e-9).values(0.0, 0.0)
    worst = Objectives(l0=L0_FLOOR / 4, delta_ce=1e-9).worst()
    assert values[0] < worst[0]
    assert values[1] < worst[1]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"l0": 1.0, "delta_ce": 0.0}, True),
        ({"l0": math.nan, "delta_ce": 0.0}, False),
        ({"l0": 1.0, "delta_ce": math.inf}, False),
        ({"l0": 1.0}, False),
        ({}, False),
    ],
)
def test_usable(metrics, expected):
    assert usable(metrics) is expected
