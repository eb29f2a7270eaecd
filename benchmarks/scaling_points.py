"""What the scaling model is checked against: a sweep on one node and on two, and the parts that it is made of.

Run by hand: ``python benchmarks/scaling_points.py [--output benchmarks/results/scaling_points.json]``.

The nodes are real ones, started with ``ray start``: a head that takes no trials and one or two workers with one CPU and
an object store of their own. They share this machine, so the speed of a step is measured twice: for a process that runs
alone, and for two at the same time. Parts and sweeps alternate, and medians are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsae_search.search import RungRecord, SweepRecord, TrialRecord

D_IN, D_SAE, BATCH, K = 64, 512, 1024, 8
ROWS, TRIALS = 400_000, 12
ROUNDS = 2
STEPS = 150
STORE_BYTES = 400_000_000
JOIN_S = 60.0
PULLED, PULLED_BYTES = 10, 24_000_000


class Clock:
    """When trials began and ended, on the wall and on the driver's processor."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, float, str]] = []

    def _note(self, what: str) -> None:
        self.moments.append((time.perf_counter(), time.process_time(), what))

    def on_sweep_start(self, record: SweepRecord) -> None:
        """Nothing."""

    def on_trial_start(self, uid: str, architecture: str, params: dict[str, Any]) -> None:
        """Note the time."""
        self._note(f"{uid} begins: {architecture} {params}")

    def on_rung(self, uid: str, rung: RungRecord) -> None:
        """Nothing."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Note the time."""
        self._note(f"{trial.uid} ends")

    def on_sweep_end(self, record: SweepRecord) -> None:
        """Nothing."""

    def between(self) -> tuple[float, float]:
        """Wall and processor seconds from the first trial's start to the last one's end."""
        first, last = self.moments[0], self.moments[-1]
        return last[0] - first[0], last[1] - first[1]


def space() -> dict[str, Any]:
    """A sweep of one architecture and one width, so that every trial takes the same time."""
    return {
        "name": "scaling",
        "subject": {"type": "directions", "d_in": D_IN, "features": {"count": 256, "probability": 0.05}},
        "activations": {"num_tokens": ROWS, "evaluation_tokens": 2_000, "calibration_tokens": 4_096},
        "training": {"num_tokens": ROWS, "batch_size": BATCH},
        "architectures": {"topk": {"d_sae": D_SAE, "k": K, "lr": {"log": [1e-3, 1e-2]}}},
        "search": {"trials": TRIALS, "sampler": "qmc", "early_stopping": "off"},
    }


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, str]]:
    """A head without CPUs and some workers, by ``ray start``: their address, and the folder of their logs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp") as folder, ExitStack() as started:
        environment = {**os.environ, "RAY_TMPDIR": folder, "PYTHONUNBUFFERED": "1"}
        nodes = [
            ["--head", "--num-cpus=0", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"],
            *(["--address", address, "--num-cpus=1", f'--resources={{"worker{n}": 1}}'] for n in range(workers)),
        ]
        processes: list[subprocess.Popen[bytes]] = []
        for number, options in enumerate(nodes):
            program = str(Path(sys.executable).parent / "ray")
            command = [program, "start", *options, f"--object-store-memory={STORE_BYTES}", "--block"]
            with open(f"{folder}/node{number}.log", "w") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            processes.append(process)
            started.callback(_wait, process)
            _until(lambda: _listens(port), lambda: "the head does not listen")
        yield address, folder
        for process in processes:  # all at once: each of them takes half a minute to give up its work
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(ready: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + JOIN_S
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise()} after {JOIN_S:.0f} s")
        time.sleep(0.2)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """``ray start --block`` takes its processes with it; after a failure it is told here."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(folder: str) -> str:
    """What the last worker has said, for when it is missing."""
    last = sorted(Path(folder).glob("node*.log"))[-1]
    return f"workers are missing; the last one said: {last.read_text()[-600:]!r}"


@contextmanager
def joined(workers: int) -> Iterator[None]:
    """A cluster, with this process as its driver."""
    import ray

    with cluster(workers) as (address, folder):
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        try:
            _until(lambda: ray.cluster_resources().get("CPU", 0) >= workers, lambda: _tail(folder))
            yield
        finally:
            ray.shutdown()


def sweep(workers: int) -> dict[str, float]:
    """Wall seconds from the first trial's start to the last one's end, and the driver's processor seconds per trial."""
    from vsae_search.search import load_sweep, run_sweep
    from vsae_search.space import SearchSpace

    with tempfile.TemporaryDirectory() as folder, joined(workers):
        clock = Clock()
        run_sweep(SearchSpace.model_validate(space()), root=Path(folder), listeners=[clock])
        trials = load_sweep(Path(folder) / "scaling")[1]
    assert {trial.state for trial in trials} == {"completed"}
    wall_s, driver_s = clock.between()
    return {"wall_s": wall_s, "driver_cpu_s": driver_s / TRIALS}


def _steps(barrier: Any, rates: Any) -> None:
    """Rows per second of training steps alone, once every process is ready."""
    import torch
    from step_runners import Case, build

    torch.set_num_threads(1)
    x_BD = torch.randn(BATCH, D_IN)
    step = build("ours", Case("topk", sparse=False, dead=0.0, d_in=D_IN, d_sae=D_SAE, batch=BATCH, k=K), x_BD)
    for _ in range(20):
        step(x_BD)
    barrier.wait()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step(x_BD)
    rates.put(STEPS * BATCH / (time.perf_counter() - begin))


def rate(processes: int) -> float:
    """Rows per second of one process, when so many train at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_steps, args=(barrier, rates)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [rates.get() for _ in workers]
    for worker in workers:
        worker.join()
    return statistics.mean(found)


def pull() -> float:
    """Bytes per second that one node fetches from another's object store, one shard after the other."""
    import numpy as np
    import ray

    with joined(2):

        @ray.remote(num_cpus=0, resources={"worker0": 0.01})
        def make(index: int) -> Any:
            return np.full(PULLED_BYTES, index % 256, dtype=np.uint8)

        @ray.remote(num_cpus=0, resources={"worker1": 0.01})
        def fetch(references: list[Any]) -> float:
            begin = time.perf_counter()
            for reference in references:
                ray.get(reference)
            return time.perf_counter() - begin

        shards = [make.remote(index) for index in range(PULLED)]
        ray.wait(shards, num_returns=PULLED, fetch_local=False)
        return PULLED * PULLED_BYTES / float(ray.get(fetch.remote(shards)))


def main() -> None:
    """Measure, and write the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scaling_points.json")
    arguments = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    rounds: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        one: dict[str, Any] = {"rows_per_s": {}, "sweep": {}}
        for workers in (1, 2):
            one["rows_per_s"][str(workers)] = rate(workers)
            one["sweep"][str(workers)] = sweep(workers)
            print(json.dumps(one), flush=True)
        one["pull_bytes_per_s"] = pull()
        rounds.append(one)
        arguments.output.write_text(json.dumps(medians(rounds), indent=1) + "\n")
    print(f"written to {arguments.output}")


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model reads, and the rounds that it comes from."""
    median = statistics.median
    return {
        "rows": ROWS,
        "trials": TRIALS,
        "rows_per_s": {n: median(one["rows_per_s"][n] for one in rounds) for n in ("1", "2")},
        "wall_s": {n: median(one["sweep"][n]["wall_s"] for one in rounds) for n in ("1", "2")},
        "driver_cpu_s": median(one["sweep"][n]["driver_cpu_s"] for one in rounds for n in ("1", "2")),
        "pull_bytes_per_s": median(one["pull_bytes_per_s"] for one in rounds),
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
