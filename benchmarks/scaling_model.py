"""How a sweep scales: throughput, traffic, driver load and cost for 8, 64 and 512 GPUs, and what gives way first.

Run by hand: ``python benchmarks/scaling_model.py [--output benchmarks/results/scaling.md]``. It starts nothing and
takes a second.

The model is a simulation of the slots of a cluster with one driver: a slot trains a trial, the driver takes the result,
records it and proposes the next one, and the slot goes on. How long a trial takes follows from what the parts can do:
the GPU, the node's network when the bank does not fit into its object store, the shared folder that takes the
checkpoints. What limits a sweep is found by lifting one limit at a time: the one whose absence saves most is the first
bottleneck. Parts that were measured carry their source; what concerns GPUs and clouds was not measured and is assumed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NO_LIMIT = math.inf
WORTH_NAMING = 0.03
"""A limit that costs less than this share of the time is no bottleneck."""


@dataclass(frozen=True)
class Parts:
    """What the parts of a cluster can do; ``SOURCES`` says how each number is known."""

    gpus_per_node: int = 8
    gpu_flops: float = 15e12
    harvest_flops: float = 6e12
    splice_flops: float = 6e12
    store_bytes: float = 200e9
    pull_bytes_per_s: float = 0.5e9
    folder_bytes_per_s: float = 1e9
    trial_overhead_s: float = 0.19
    driver_s: float = 0.06
    proposal_s: float = 0.55
    checkpoint_interval_s: float = 60.0
    gpu_hour_usd: float = 2.5

    def without(self, limit: str) -> Parts:
        """The same cluster without one of its limits."""
        return replace(self, **LIMITS[limit])


LIMITS: dict[str, dict[str, float]] = {
    "harvest": {"harvest_flops": NO_LIMIT},
    "evaluation": {"splice_flops": NO_LIMIT},
    "network": {"pull_bytes_per_s": NO_LIMIT},
    "checkpoints": {"folder_bytes_per_s": NO_LIMIT},
    "driver": {"driver_s": 0.0, "proposal_s": 0.0},
}
"""Limits that can be lifted, and how."""


@dataclass(frozen=True)
class Sweep:
    """One sweep on the residual stream of GPT-2 small before block 8, with eight latents for each coordinate."""

    num_tokens: float
    harvested: float
    trials: int = 960
    trials_per_gpu: int = 4
    sampler: str = "gp"
    d_in: int = 768
    d_sae: int = 6144
    bytes_per_value: int = 2
    evaluation_tokens: float = 100_000
    rungs: int = 3
    harvest_flops_per_token: float = 116e6
    splice_flops_per_token: float = 135e6

    @property
    def row_bytes(self) -> float:
        """Bytes of one activation in the bank."""
        return float(self.d_in * self.bytes_per_value)

    @property
    def bank_bytes(self) -> float:
        """Bytes of the bank."""
        return self.harvested * self.row_bytes

    @property
    def step_flops_per_row(self) -> float:
        """Five matrix products, of two operations for each weight."""
        return 10.0 * self.d_in * self.d_sae

    @property
    def state_bytes(self) -> float:
        """A checkpoint: encoder, decoder and two moments of each, in 32 bits."""
        return 4 * 3 * 2.0 * self.d_in * self.d_sae


@dataclass(frozen=True)
class Outcome:
    """What a sweep takes.

    Attributes:
        wall_s: From the harvest to the last trial.
        harvest_s: Of it, the harvest.
        trial_s: One trial, in a slot of its own.
        rows_per_s: Rows trained on per second, over the whole time.
        busy: Share of the GPU time that goes into training steps.
        bank_bytes: Size of the bank.
        node_bytes_per_s: What a node reads from other nodes while trials run.
        driver_load: Share of its time for which the driver works.
        cost_usd: GPU hours at their price.
    """

    wall_s: float
    harvest_s: float
    trial_s: float
    rows_per_s: float
    busy: float
    bank_bytes: float
    node_bytes_per_s: float
    driver_load: float
    cost_usd: float


def run_slots(slots: int, trials: int, trial_s: float, driver_s: float) -> float:
    """Seconds until the last of the trials ends.

    Slots work side by side; between two trials of a slot the one driver takes ``driver_s`` for it, one slot at a time.

    Args:
        slots: Trials at the same time.
        trials: Trials in all.
        trial_s: Seconds of a trial in its slot.
        driver_s: Seconds of the driver for each trial.
    """
    free = 0.0
    ends: list[float] = []
    for _ in range(min(slots, trials)):
        free += driver_s
        heapq.heappush(ends, free + trial_s)
    for _ in range(trials - len(ends)):
        free = max(free, heapq.heappop(ends)) + driver_s
        heapq.heappush(ends, free + trial_s)
    return max(ends)


def predict(sweep: Sweep, gpus: int, parts: Parts, *, smooth: bool = False) -> Outcome:
    """Simulate a sweep.

    Args:
        sweep: What is run.
        gpus: GPUs of the cluster.
        parts: What its parts can do.
        smooth: As if trials could be divided among slots without a rest: what too few of them cost.
    """
    nodes = math.ceil(gpus / parts.gpus_per_node)
    harvest_s = sweep.harvested * sweep.harvest_flops_per_token / (parts.harvest_flops * gpus)
    slots = gpus * sweep.trials_per_gpu if smooth else min(gpus * sweep.trials_per_gpu, sweep.trials)
    sharing = math.ceil(slots / gpus)  # trials on the GPU that has most
    busy_gpus_per_node = min(gpus, slots) / nodes
    full = parts.gpu_flops / sweep.step_flops_per_row  # rows per second of a GPU that has everything it needs
    wanted = busy_gpus_per_node * full * sweep.row_bytes  # bytes per second that a node's trials read
    missing = _missing(sweep, parts)
    fed = min(1.0, parts.pull_bytes_per_s / (wanted * missing)) if missing else 1.0
    writes_s = slots * sweep.state_bytes / parts.folder_bytes_per_s  # one checkpoint of every trial
    train_s = sweep.num_tokens * sharing / (full * fed)
    train_s *= 1 + writes_s / parts.checkpoint_interval_s
    evaluate_s = sweep.rungs * sweep.evaluation_tokens * sweep.splice_flops_per_token * sharing / parts.splice_flops
    trial_s = train_s + evaluate_s + parts.trial_overhead_s
    driver_s = parts.driver_s + (parts.proposal_s if sweep.sampler == "gp" else 0.0)
    first_s = _first_reading(sweep, nodes, parts, wanted)
    smooth_s = max(sweep.trials * trial_s / slots, sweep.trials * driver_s)
    trials_s = smooth_s if smooth else run_slots(slots, sweep.trials, trial_s, driver_s)
    wall_s = harvest_s + first_s + trials_s
    return Outcome(
        wall_s=wall_s,
        harvest_s=harvest_s,
        trial_s=trial_s,
        rows_per_s=sweep.trials * sweep.num_tokens / wall_s,
        busy=sweep.trials * sweep.num_tokens / full / (gpus * wall_s),
        bank_bytes=sweep.bank_bytes,
        node_bytes_per_s=wanted * fed * missing if nodes > 1 else 0.0,
        driver_load=min(1.0, sweep.trials * driver_s / trials_s),
        cost_usd=gpus * wall_s / 3600 * parts.gpu_hour_usd,
    )


def _missing(sweep: Sweep, parts: Parts) -> float:
    """Share of the rows that a trial does not find in its node's object store, once that is full.

    A node keeps what it has read until the store is full. Every trial reads the bank in an order of its own, so what is
    found is the share of the bank that fits. A cluster of one node reads the rest from its disk,
    and the same rate is taken for that.
    """
    return max(0.0, 1.0 - parts.store_bytes / sweep.bank_bytes)


def _first_reading(sweep: Sweep, nodes: int, parts: Parts, wanted: float) -> float:
    """Seconds that the first trials wait because every node has to fetch what fits of the bank from the others."""
    fetched = min(sweep.bank_bytes, parts.store_bytes) * (1 - 1 / nodes)
    return max(0.0, fetched / parts.pull_bytes_per_s - fetched / wanted)


def bottlenecks(sweep: Sweep, gpus: int, parts: Parts) -> list[tuple[str, float]]:
    """Limits and the share of the time that each of them costs, the largest first; those that hardly count left out."""
    wall_s = predict(sweep, gpus, parts).wall_s
    saved = {limit: 1 - predict(sweep, gpus, parts.without(limit)).wall_s / wall_s for limit in LIMITS}
    saved["too few trials"] = 1 - predict(sweep, gpus, parts, smooth=True).wall_s / wall_s
    named = [(limit, share) for limit, share in saved.items() if share >= WORTH_NAMING]
    return sorted(named, key=lambda one: -one[1])


def moved(sweep: Sweep, limit: str, parts: Parts) -> Sweep:
    """The sweep with the setting that moves a bottleneck; unchanged when there is none left to move."""
    fitting = min(sweep.harvested, parts.store_bytes / sweep.row_bytes)
    changes: dict[str, dict[str, Any]] = {
        "harvest": {"harvested": fitting},
        "network": {"harvested": fitting},
        "checkpoints": {"trials_per_gpu": 1},
        "too few trials": {"trials_per_gpu": 1},
        "driver": {"sampler": "qmc"},
    }
    return replace(sweep, **changes.get(limit, {}))


def settled(sweep: Sweep, gpus: int, parts: Parts) -> Sweep:
    """The sweep after every setting that shortens it, the first bottleneck's first."""
    while True:
        better = [
            changed
            for limit, _ in bottlenecks(sweep, gpus, parts)
            if (changed := moved(sweep, limit, parts)) != sweep
            and predict(changed, gpus, parts).wall_s < predict(sweep, gpus, parts).wall_s
        ]
        if not better:
            return sweep
        sweep = better[0]


def check(points: dict[str, Any], parts: Parts) -> dict[str, dict[str, float]]:
    """The same simulation on one and on two nodes of one CPU each, against what was measured there.

    Returns:
        For ``"1"`` and ``"2"`` nodes the seconds of the sweep, and for ``"speed-up"`` their ratio: each with
        ``predicted``, ``measured`` and ``error``, the prediction's share too much.
    """
    predicted, measured = {}, {}
    for nodes in ("1", "2"):
        trial_s = points["rows"] / points["rows_per_s"][nodes] + parts.trial_overhead_s
        predicted[nodes] = run_slots(int(nodes), points["trials"], trial_s, points["driver_cpu_s"])
        measured[nodes] = points["wall_s"][nodes]
    for values in (predicted, measured):
        values["speed-up"] = values["1"] / values["2"]
    return {
        name: {"predicted": predicted[name], "measured": measured[name], "error": predicted[name] / measured[name] - 1}
        for name in predicted
    }


def main() -> None:
    """Simulate, and write the tables."""
    from scaling_table import page

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.md")
    arguments = parser.parse_args()
    points = json.loads((RESULTS / "scaling_points.json").read_text())
    parts = replace(Parts(), pull_bytes_per_s=points["pull_bytes_per_s"], driver_s=points["driver_cpu_s"])
    arguments.output.write_text(page(parts, points))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
