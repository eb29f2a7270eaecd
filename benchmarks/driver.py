"""What one driver can carry: thousands of trials that take no time, with everything else as in a real sweep.

Run by hand: ``python benchmarks/driver.py [--trials 1000] [--output benchmarks/results/driver.md]``.

The trials report a made-up record at one rung and at the end. Studies, searcher, Tune, records on disk and the MLflow
listener are the real ones, and so is the report at the end. Two clocks are read whenever a trial ends: the wall, and
the processor time of the driver process (all of its threads). Other programs on the machine slow a processor's work
down, so that a fixed piece of work is timed at the same moments, and times are given as if it had always taken what it
takes in the median. The first hundred trials, which wait for processes to start, are left out of the comparison.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import platform
import pstats
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from vsae_search.report import write_report
from vsae_search.search import run_sweep
from vsae_search.search import sweep as sweep_module
from vsae_search.space import SearchSpace, TrackingSpec
from vsae_search.tracking import MlflowListener

if TYPE_CHECKING:
    from vsae_search.search import RungRecord, SweepRecord, TrialRecord

BLOCK = 100
FLAT = 0.2
REPORT_LIMIT_S = 30.0
ARCHITECTURES = ("relu", "topk", "batch_topk", "jumprelu")


def space(trials: int, sampler: str, name: str = "driver") -> SearchSpace:
    """Four architectures, two trials at a time."""
    return SearchSpace.model_validate(
        {
            "name": name,
            "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
            "activations": {
                "num_tokens": 2048,
                "evaluation_tokens": 512,
                "calibration_tokens": 256,
                "shard_tokens": 1024,
            },
            "training": {"num_tokens": 2048, "batch_size": 128, "rungs": [0.5, 1.0]},
            "shared": {"lr": {"log": [1e-4, 1e-2]}},
            "architectures": {entry: {"d_sae": {"choice": [16, 32, 64]}} for entry in ARCHITECTURES},
            "search": {"trials": trials, "sampler": sampler},
            "resources": {"max_concurrent": 2},
        }
    )


def instant(config: dict[str, Any], context: Any) -> None:  # noqa: ARG001 - Tune hands it over
    """A trial that takes no time: its numbers follow from its hyper-parameters."""
    from ray import tune

    from vsae_search.search.records import RungRecord, TrialRecord
    from vsae_search.search.trainable import as_result

    lr = config["params"].get("lr", 1e-3)
    l0 = 2.0 + 6.0 * abs(math.sin(1e4 * lr)) + config["number"] % 7
    names = ("fvu", "mse", "cosine", "dead_fraction", "dense_fraction", "mmcs", "recovered_fraction", "kl")
    metrics = {"l0": l0, "delta_ce": 0.05 / l0 + lr, **dict.fromkeys(names, 0.1 + lr)}
    rungs = [
        RungRecord(index=i, fraction=(i + 1) / 2, step=8 * i, tokens=1024 * (i + 1), metrics=metrics) for i in (0, 1)
    ]
    known = {key: config[key] for key in ("uid", "architecture", "number", "params", "seed", "attempt")}
    moment = "2026-01-01T00:00:00.000+00:00"
    times = {"started_at": moment, "ended_at": moment}
    tune.report(as_result(TrialRecord(**known, **times, state="stopped", metrics=metrics, rungs=tuple(rungs[:1]))))
    tune.report(as_result(TrialRecord(**known, **times, state="completed", metrics=metrics, rungs=tuple(rungs))))


class Clocks:
    """Reads both clocks and the memory of this process whenever a trial ends."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.yardstick_s: list[float] = []
        self.memory_mb: list[float] = []
        self._process = psutil.Process()
        self._taken_s = 0.0

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Nothing."""

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Read."""
        del trial
        self.wall_s.append(time.perf_counter())
        begun = time.thread_time()
        _fixed_work()
        self.yardstick_s.append(time.thread_time() - begun)
        self._taken_s += self.yardstick_s[-1]
        self.cpu_s.append(time.process_time() - self._taken_s)
        if len(self.wall_s) % BLOCK == 0:
            self.memory_mb.append(self._process.memory_info().rss / 2**20)

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Nothing."""

    def block_ms(self, end: int) -> float:
        """Processor milliseconds per trial in the hundred before a trial, at the machine's median speed."""
        block = slice(end - BLOCK, end)
        speed = statistics.median(self.yardstick_s) / statistics.median(self.yardstick_s[block])
        return 1e3 * (self.cpu_s[end - 1] - self.cpu_s[end - 1 - BLOCK]) / BLOCK * speed


def _fixed_work() -> None:
    table = {index: str(index) for index in range(2000)}
    sorted(table.values())


@dataclass(frozen=True)
class Row:
    """One size of sweep.

    Attributes:
        trials: How many.
        wall_s: Seconds per trial over all trials but the first hundred.
        first_ms: Driver's processor time per trial in the second hundred, in milliseconds.
        last_ms: The same in the last hundred.
        memory_mb: Memory of the driver at the end.
        growth_kb: What every trial added to it.
        writes_per_s: Metric values that MLflow got per second while the sweep ran and until all were delivered.
        drain_s: Seconds that MLflow needed after the last trial.
        report_s: Seconds for the report.
        resume_s: Seconds for the same command once more, with nothing left to do.
    """

    trials: int
    wall_s: float
    first_ms: float
    last_ms: float
    memory_mb: float
    growth_kb: float
    writes_per_s: float
    drain_s: float
    report_s: float
    resume_s: float

    @property
    def flat(self) -> float:
        """How much longer the last hundred took, as a part of the second hundred."""
        return self.last_ms / self.first_ms - 1


def measure(trials: int, sampler: str, profile: bool) -> Row:
    """One sweep, its report, and the same command again."""
    with tempfile.TemporaryDirectory() as folder:
        root, clocks = Path(folder) / "sweeps", Clocks()
        plan = space(trials, sampler)
        tracking = MlflowListener(root / plan.name, TrackingSpec(save_weights=False))
        sweep_module.run_trial = instant
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        begun = time.perf_counter()
        run_sweep(plan, root=root, listeners=[tracking, clocks])
        ended = time.perf_counter()
        profiler.disable()
        assert tracking.close(timeout_s=1200).complete
        delivered = time.perf_counter()
        if profile:
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)
        values = _written(root / plan.name / "mlflow.db")
        report_s = _seconds(lambda: write_report(root / plan.name, Path(folder) / "report"))
        resume_s = _seconds(lambda: run_sweep(plan, root=root))
    wall_s, memory = clocks.wall_s, clocks.memory_mb
    return Row(
        trials=trials,
        wall_s=(wall_s[-1] - wall_s[BLOCK]) / (len(wall_s) - 1 - BLOCK),
        first_ms=clocks.block_ms(2 * BLOCK),
        last_ms=clocks.block_ms(trials),
        memory_mb=memory[-1],
        growth_kb=(memory[-1] - memory[0]) * 1024 / (BLOCK * (len(memory) - 1)),
        writes_per_s=values / (delivered - begun),
        drain_s=delivered - ended,
        report_s=report_s,
        resume_s=resume_s,
    )


def _seconds(action: Any) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _written(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM metrics").fetchone()[0])


def table(rows: list[Row], sampler: str) -> str:
    """The results as a page."""
    load = psutil.getloadavg()[0]
    lines = [
        "# What one driver can carry",
        "",
        f"{platform.machine()}, {psutil.cpu_count()} cores, load average {load:.1f} at the end; sampler {sampler}.",
        "Made by `python benchmarks/driver.py`.",
        "",
        "Instant trials with two reports each, two at a time, from four architectures; everything but the training",
        "is real. *Driver* is the processor time of the driver process per trial, in milliseconds, corrected by a",
        "fixed piece of work for what else the machine does; it is flat when the last hundred trials take at most",
        f"{FLAT:.0%} more than the second hundred. The report is to take at most {REPORT_LIMIT_S:.0f} s.",
        "",
        "| trials | wall s/trial | driver ms, trials 101-200 | driver ms, last 100 | change | memory MB | kB/trial "
        "| MLflow values/s | MLflow after the end s | report s | the command again s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.trials} | {row.wall_s:.3f} | {row.first_ms:.1f} | {row.last_ms:.1f} | {row.flat:+.0%} "
        f"| {row.memory_mb:.0f} | {row.growth_kb:.0f} | {row.writes_per_s:.0f} | {row.drain_s:.1f} "
        f"| {row.report_s:.1f} | {row.resume_s:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    parser.add_argument("--output", type=Path, help="file for the table")
    arguments = parser.parse_args()
    rows = []
    for trials in arguments.trials:
        rows.append(measure(trials, arguments.sampler, arguments.profile))
        print(json.dumps({**asdict(rows[-1]), "flat": rows[-1].flat}), flush=True)
    text = table(rows, arguments.sampler)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
