"""What a trial costs beyond its training: starting, building, evaluating, reporting, recording.

Run by hand: ``python benchmarks/overhead.py [--trials 40] [--output benchmarks/results/overhead.md]``.

Trials train for 16 steps, so nearly all of their time is overhead. The time of a trial is taken in the driver, from the
end of one trial to the end of the next, so that nothing can hide between trials: it contains the proposal, Tune, the
reset of the worker, and the record on disk. With c trials at a time it is c times the gap between ends. The first
trials, which wait for processes to start, are left out, and so is shutting down.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from vsae_search.search import load_sweep, run_sweep
from vsae_search.search.resources.cluster import connected
from vsae_search.space import ResourcesSpec, SearchSpace, TrackingSpec
from vsae_search.tracking import MlflowListener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.search import RungRecord, SweepListener, SweepRecord, TrialRecord

TARGET_S = 0.2


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    label: str
    concurrency: int = 1
    rungs: tuple[float, ...] = (1.0,)
    sampler: str = "qmc"
    evaluation_rows: int = 2_000
    tracked: bool = False


SETTINGS = (
    Setting("one rung"),
    Setting("three rungs (the default)", rungs=(0.25, 0.5, 1.0)),
    Setting("three rungs, two at a time", concurrency=2, rungs=(0.25, 0.5, 1.0)),
    Setting("three rungs, recorded in MLflow", rungs=(0.25, 0.5, 1.0), tracked=True),
    Setting("three rungs, sampler auto", rungs=(0.25, 0.5, 1.0), sampler="auto"),
    Setting("three rungs, 20,000 evaluation rows (the default)", rungs=(0.25, 0.5, 1.0), evaluation_rows=20_000),
)


class Clock:
    """Notes when each trial ended, as the driver saw it."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, str]] = []

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Nothing."""

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Note the time."""
        self.ends.append((time.perf_counter(), trial.uid))

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Nothing."""


def space_for(setting: Setting, trials: int) -> SearchSpace:
    """Trivially short trials of one architecture."""
    return SearchSpace.model_validate(
        {
            "name": "overhead",
            "subject": {"type": "directions", "d_in": 16, "features": {"count": 32, "probability": 0.1}},
            "activations": {
                "num_tokens": 8192,
                "evaluation_tokens": setting.evaluation_rows,
                "calibration_tokens": 1024,
                "shard_tokens": 4096,
            },
            "training": {"num_tokens": 2048, "batch_size": 128, "rungs": setting.rungs},
            "architectures": {"topk": {"d_sae": 64, "k": {"int": [1, 16]}, "lr": {"log": [1e-3, 1e-2]}}},
            "search": {"trials": trials, "sampler": setting.sampler},
            "resources": {"max_concurrent": setting.concurrency},
        }
    )


def measure(setting: Setting, trials: int) -> dict[str, float]:
    """Seconds per trial, medians over the trials after the first ones."""
    with tempfile.TemporaryDirectory() as folder:
        root, clock = Path(folder), Clock()
        space = space_for(setting, trials)
        listeners: Sequence[SweepListener] = [clock]
        tracking = MlflowListener(root / space.name, TrackingSpec()) if setting.tracked else None
        if tracking is not None:
            listeners = [clock, tracking]
        try:
            run_sweep(space, root=root, listeners=listeners)
        finally:
            if tracking is not None:
                tracking.close()
        records = {record.uid: record for record in load_sweep(root / space.name)[1]}
    assert all(record.state == "completed" for record in records.values()), "a benchmark trial did not complete"
    cold = 2 * setting.concurrency
    ends = clock.ends[cold:]
    gaps = np.diff([moment for moment, _ in ends]) * setting.concurrency
    warm = [records[uid] for _, uid in ends[1:]]
    trained = float(np.mean([record.train_s for record in warm]))
    return {
        "trial": float(np.mean(gaps)),
        "train": trained,
        "evaluate": float(np.mean([record.evaluate_s for record in warm])),
        "overhead": float(np.mean(gaps)) - trained,
        "p95": float(np.percentile(gaps, 95)) - trained,
    }


def table(rows: list[tuple[Setting, dict[str, float]]], trials: int) -> str:
    """The result as Markdown."""
    machine = f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores"
    lines = [
        "# Overhead per trial",
        "",
        f"{machine}, load average {psutil.getloadavg()[0]:.1f} at the end; {trials} trials per row.",
        "Made by `python benchmarks/overhead.py`.",
        "",
        "Seconds per trial, means over trials in workers that are already running. *Overhead* is everything beyond",
        "training steps: proposal, Tune, reset of the worker, building, evaluation at every rung, saving, recording;",
        f"it contains the evaluation. Target: at most {TARGET_S:g} s.",
        "",
        "| setting | trial | training | evaluation | overhead | overhead, 95th percentile |",
        "|---|---|---|---|---|---|",
    ]
    for setting, row in rows:
        numbers = " | ".join(f"{row[key]:.3f}" for key in ("trial", "train", "evaluate", "overhead", "p95"))
        lines.append(f"| {setting.label} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.md"))
    arguments = parser.parse_args()
    rows = []
    with connected(ResourcesSpec()):
        for setting in SETTINGS:
            rows.append((setting, measure(setting, arguments.trials)))
            print(setting.label, {key: round(value, 3) for key, value in rows[-1][1].items()}, flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(table(rows, arguments.trials))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
