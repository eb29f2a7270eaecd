"""The scaling model, against sums that are done by hand, and its page against the model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from manifests import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from scaling_model import LIMITS, Parts, Sweep, bottlenecks, predict, run_slots, settled

PARTS = Parts()
SMALL = Sweep(num_tokens=1e8, harvested=1e8)
LARGE = Sweep(num_tokens=1e9, harvested=1e9)


@pytest.mark.parametrize(
    ("slots", "trials", "trial_s", "driver_s", "expected"),
    [
        (1, 3, 10.0, 0.0, 30.0),
        (2, 3, 10.0, 0.0, 20.0),  # the third waits for a slot
        (4, 3, 10.0, 0.0, 10.0),
        (1, 3, 10.0, 1.0, 33.0),
        (2, 2, 10.0, 1.0, 12.0),  # the second is proposed after the first
        (2, 4, 10.0, 1.0, 23.0),  # begin at 1, 2, 12, 13
        (100, 100, 1.0, 1.0, 101.0),  # the driver is the limit
    ],
)
def test_slots_by_hand(slots, trials, trial_s, driver_s, expected):
    assert run_slots(slots, trials, trial_s, driver_s) == pytest.approx(expected)


def test_training_alone_by_hand():
    """8 GPUs, one trial on each, nothing else in the way: 960 trials of 1e8 rows in 120 rounds."""
    free = replace(
        PARTS.without("harvest").without("evaluation").without("network").without("checkpoints").without("driver"),
        trial_overhead_s=0.0,
    )
    row_flops = 10 * 768 * 6144  # five products of 768 x 6144, two operations for each weight
    outcome = predict(replace(SMALL, trials_per_gpu=1), 8, free)
    assert outcome.trial_s == pytest.approx(1e8 * row_flops / 15e12)
    assert outcome.wall_s == pytest.approx(120 * outcome.trial_s)
    assert outcome.busy == pytest.approx(1.0)
    assert outcome.cost_usd == pytest.approx(8 * outcome.wall_s / 3600 * 2.5)
    assert predict(SMALL, 8, free).wall_s == pytest.approx(outcome.wall_s)  # four trials share a GPU: each takes longer


def test_a_bank_that_does_not_fit_is_read_from_other_nodes():
    outcome = predict(LARGE, 64, PARTS)
    assert outcome.bank_bytes == 1e9 * 768 * 2
    assert outcome.node_bytes_per_s == pytest.approx(PARTS.pull_bytes_per_s)
    roomy = replace(PARTS, store_bytes=outcome.bank_bytes)
    assert predict(LARGE, 64, roomy).node_bytes_per_s == 0
    assert bottlenecks(LARGE, 64, PARTS)[0][0] == "network"
    assert "network" not in dict(bottlenecks(replace(LARGE, harvested=1e8), 8, PARTS))


def test_checkpoints_by_hand():
    """32 trials on 8 GPUs write 113 MB each in a minute; at 1 GB/s that is 3.6 s of every 60."""
    slower = predict(SMALL, 8, PARTS).trial_s - predict(SMALL, 8, PARTS.without("checkpoints")).trial_s
    train_s = 4 * 1e8 * 10 * 768 * 6144 / 15e12
    assert slower == pytest.approx(train_s * 32 * (4 * 3 * 2 * 768 * 6144) / 1e9 / 60)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_lifting_a_limit_never_slows_a_sweep(limit, gpus):
    for sweep in (SMALL, LARGE):
        assert predict(sweep, gpus, PARTS.without(limit)).wall_s <= predict(sweep, gpus, PARTS).wall_s * (1 + 1e-9)


@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_settings_never_slow_a_sweep_and_leave_what_is_trained(gpus):
    for sweep in (SMALL, LARGE):
        after = settled(sweep, gpus, PARTS)
        assert predict(after, gpus, PARTS).wall_s <= predict(sweep, gpus, PARTS).wall_s
        assert (after.num_tokens, after.trials, after.d_sae) == (sweep.num_tokens, sweep.trials, sweep.d_sae)


def test_the_page_is_what_the_model_says():
    from scaling_table import page

    points = json.loads((ROOT / "benchmarks/results/scaling_points.json").read_text())
    parts = replace(PARTS, pull_bytes_per_s=points["pull_bytes_per_s"], driver_s=points["driver_cpu_s"])
    assert (ROOT / "benchmarks/results/scaling.md").read_text() == page(parts, points)


def test_the_check_by_hand():
    """One node: 4 trials of 10 s; two nodes, whose steps are half as fast: 2 rounds of 20 s."""
    from scaling_model import check

    points = {"rows": 1000, "rows_per_s": {"1": 100.0, "2": 50.0}, "trials": 4, "driver_cpu_s": 0.0}
    found = check({**points, "wall_s": {"1": 50.0, "2": 40.0}}, replace(PARTS, trial_overhead_s=0.0))
    assert found["1"] == {"predicted": 40.0, "measured": 50.0, "error": pytest.approx(-0.2)}
    assert found["2"]["error"] == pytest.approx(0.0)
    assert found["speed-up"]["predicted"] == pytest.approx(1.0)
    assert found["speed-up"]["measured"] == pytest.approx(1.25)
