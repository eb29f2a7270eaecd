"""A sweep of N trials that share one harvest, against N independent runs that each harvest for themselves.

``benchmarks/harvest.py`` starts this file once for every sweep and for every independent run, and adds up the processor
time of each process and of everything that it started. The independent run is as lean as it can be: no Ray, no Optuna,
the same model, shards, training and evaluation, in one process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

SWEEPS = (8, 24)
RUNS = 4
_POLL_S = 0.2
ROWS = 65_536


def section() -> str:
    """The table."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "text"
        run_child("text", 0, cache)
        runs, sweeps = [], {}
        for count in SWEEPS:  # half of the independent runs before each sweep
            for _ in range(RUNS // len(SWEEPS)):
                runs.append(run_child("independent", len(runs), fresh(cache, Path(folder) / f"run-{len(runs)}")))
            sweeps[count] = run_child("sweep", count, fresh(cache, Path(folder) / f"sweep-{count}"))
    return _table(runs, sweeps)


def _table(runs: list[dict[str, float]], sweeps: dict[int, dict[str, float]]) -> str:
    whole = np.array([run["cpu_s"] for run in runs])
    work = np.array([run["harvest_s"] + run["trial_s"] for run in runs])
    rows = []
    for count, sweep in sweeps.items():
        saved = [count * value / sweep["cpu_s"] for value in whole]
        lean = [count * value / sweep["cpu_s"] for value in work]
        formula = count * np.mean(work) / (np.mean([run["harvest_s"] for run in runs]) + count * _mean(runs, "trial_s"))
        cells = [f"{sweep['cpu_s']:.0f}", f"{sweep['wall_s']:.0f}", f"{count * whole.mean():.0f}"]
        cells += [f"{np.median(saved):.2f} ({min(saved):.2f} to {max(saved):.2f})"]
        cells += [f"{np.median(lean):.2f} ({min(lean):.2f} to {max(lean):.2f})", f"{formula:.2f}"]
        rows.append(f"| {count} | " + " | ".join(cells) + " |")
    return f"""## A sweep against independent runs

`tiny_gelu_1l` at `blocks.0.hook_mlp_out`, {ROWS:,} rows harvested, one architecture (`topk`, 512 latents) trained for
{ROWS:,} rows and evaluated on 4,096. Processor seconds of all processes (the machine is shared, so that wall time says
little; it is given for the sweep, two trials at a time). {RUNS} independent runs were made, half before each sweep:
means of {_mean(runs, "startup_s"):.1f} s to start (imports, the model), {_mean(runs, "harvest_s"):.1f} s to harvest and
{_mean(runs, "trial_s"):.1f} s to train and evaluate. N of them are N times one of them; median (range). Tokenising is
left out on both sides. *Work only* leaves the start of the independent runs out, and nothing of the sweep. *Formula* is
N (h + s) / (h + N s), with the harvest and the trial as measured in the independent runs.

| N | sweep, CPU s | sweep, wall s | N independent runs, CPU s | independent / sweep | the same, work only | formula |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def _mean(runs: list[dict[str, float]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def fresh(cache: Path, root: Path) -> Path:
    """A folder of sweeps with nothing in it but the tokens of the text."""
    shutil.copytree(cache, root)
    return root


def run_child(kind: str, number: int, root: Path) -> dict[str, float]:
    """Run this file; return what it says, its wall time and the processor time of it and its descendants."""
    begun = time.perf_counter()
    command = [sys.executable, __file__, kind, str(number), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        used: dict[tuple[int, float], float] = {}
        while child.poll() is None:
            _add_up(psutil.Process(child.pid), used)
            time.sleep(_POLL_S)
        assert child.returncode == 0, f"{kind} {number} failed"
        assert child.stdout is not None
        told = json.loads(child.stdout.read().splitlines()[-1])
    return {**told, "wall_s": time.perf_counter() - begun, "cpu_s": max(sum(used.values()), told["cpu_s"])}


def _add_up(process: psutil.Process, used: dict[tuple[int, float], float]) -> None:
    """Note the processor time of every process there is; what a process used after the last look is lost."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            times = one.cpu_times()
            used[one.pid, one.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:
            continue


def space_of(trials: int) -> Any:
    """The search space of both sides."""
    from vsae_search.space import SearchSpace

    rows = {"num_tokens": ROWS, "evaluation_tokens": 4096, "calibration_tokens": 4096, "shard_tokens": 16_384}
    subject = {"type": "language_model", "model": "tiny_gelu_1l", "hook": "blocks.0.hook_mlp_out"}
    return SearchSpace.model_validate(
        {
            "name": "sharing",
            "subject": {**subject, "context_length": 128, "text": {"source": "python_stdlib"}},
            "activations": {**rows, "dtype": "bf16"},
            "training": {"num_tokens": ROWS, "batch_size": 1024, "rungs": [1.0]},
            "architectures": {"topk": {"d_sae": 512, "k": {"int": [4, 64]}, "lr": {"log": [1e-3, 1e-2]}}},
            "search": {"trials": trials, "sampler": "qmc"},
            "resources": {"max_concurrent": 2},
        }
    )


@dataclass(frozen=True)
class OwnBank:
    """The rows of one run, in its own memory."""

    manifest: Any
    shards: list[Any]
    calibration_ND: Any
    rows: Any

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> Any:
        """The batches that a sweep's trial would see."""
        from vsae_search.activations import BatchStream

        sizes, d_in = [len(shard) for shard in self.shards], self.shards[0].shape[1]
        options = {"batch_size": batch_size, "seed": seed, "device": device, "scale": self.manifest.scale}
        return BatchStream(self.shards.__getitem__, sizes, d_in=d_in, dtype="bf16", **options)

    def evaluation(self) -> Any:
        """The evaluation rows."""
        return self.rows

    def calibration(self) -> Any:
        """The calibration rows."""
        return self.calibration_ND


def independent(number: int, root: Path) -> dict[str, float]:
    """Harvest, train and evaluate in this process; return the processor seconds of each part."""
    from vsae_search.activations.harvest import ROWS as X_ND
    from vsae_search.activations.harvest import harvest_arrays
    from vsae_search.activations.manifest import bank_requests
    from vsae_search.activations.statistics import combine, sum_rows
    from vsae_search.search.assignment import Assignment
    from vsae_search.search.trial import TrialContext, TrialRun
    from vsae_search.subjects import Rows, build_subject

    space = space_of(1)
    subject = build_subject(space.subject, root)
    subject.load()
    started = time.process_time()
    *train, calibration, evaluation = (
        harvest_arrays(subject, request) for request in bank_requests(subject.fingerprint, space.activations)
    )
    shards = [arrays[X_ND] for arrays in train]
    statistics = combine([sum_rows(shard, "bf16") for shard in shards])
    harvested = time.process_time()
    bank = OwnBank(statistics, shards, calibration[X_ND], Rows(**evaluation))
    context = TrialContext(bank, subject, subject.baseline(bank.evaluation()), space.training, root / "run")
    params = {"d_sae": 512, "k": 4 + 7 * number, "lr": 3e-3}
    record = TrialRun(Assignment(f"topk-{number}", "topk", number, params, number, 0), context, lambda _: None).run()
    assert record.state == "completed", record.error
    ended = time.process_time()
    return {"startup_s": started, "harvest_s": harvested - started, "trial_s": ended - harvested, "cpu_s": ended}


def sweep(trials: int, root: Path) -> dict[str, float]:
    """Run a sweep."""
    from vsae_search.search import load_sweep, run_sweep

    (root / ".bank").mkdir()
    (root / "text").rename(root / ".bank" / "text")
    space = space_of(trials)
    run_sweep(space, root=root)
    records = load_sweep(root / space.name)[1]
    assert [record.state for record in records] == ["completed"] * trials
    return {"cpu_s": time.process_time()}


def tokenise(_: int, root: Path) -> dict[str, float]:
    """Leave the tokens of the text in a folder."""
    from vsae_search.subjects import build_subject

    space = space_of(1)
    rows = {"train": ROWS, "calibration": 4096, "evaluation": 4096}
    build_subject(space.subject, root).prepare(rows, space.activations.shard_tokens)
    return {"cpu_s": time.process_time()}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    modes = {"text": tokenise, "independent": independent, "sweep": sweep}
    print(json.dumps(modes[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))), flush=True)
