"""Memory of the activation bank: one copy in the object store, however many trials read it.

Run by hand: ``python benchmarks/bank_memory.py [--megabytes 256] [--output benchmarks/results/bank_memory.md]``.

Each reader is a process of its own that reads a whole epoch, so that it has touched every page of the bank, and stays
alive while memory is measured. USS counts pages that only one process maps. PSS divides shared pages among those that
map them, so that its sum over all processes (driver, readers, object store) is the physical memory in use. RSS counts
the bank again in every process, and is shown to explain what ``top`` displays.

Shapes: N rows, D d_in.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import ray
import torch

from vsae_search.activations import ActivationBank, build_bank
from vsae_search.space import ActivationsSpec
from vsae_search.subjects import Baseline, GroundTruth, Rows, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

D_IN = 256
BATCH_SIZE = 1024
SHARD_ROWS = 16_384
READERS = (1, 2, 4)
MB = 1e6
RESOURCES_S = 3.0  # Ray tells of its resources about once a second


@dataclass(frozen=True)
class Noise:
    """A subject without a model: standard normal rows."""

    d_in: int = D_IN
    loss_name: str = "none"
    loss_unit: str = ""
    truth: GroundTruth | None = None

    @property
    def fingerprint(self) -> str:
        """Sha256 over the width, which is all that determines the rows."""
        return hashlib.sha256(f"noise {self.d_in}".encode()).hexdigest()

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Return rows drawn from the split's own random stream."""
        del shard_rows  # every shard has a random stream of its own
        seed = [index, num_rows, *split.encode()]
        return Rows(np.random.default_rng(seed).standard_normal((num_rows, self.d_in), dtype=np.float32))

    def baseline(self, rows: Rows) -> Baseline:
        """Not available: nothing is evaluated here."""
        raise NotImplementedError

    def splice(self, rows: Rows, xhat_ND: Any) -> Any:
        """Not available: nothing is evaluated here."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what the subject is."""
        return {"kind": "noise"}


@ray.remote(num_cpus=0)
class Reader:
    """A trial that reads and does nothing else."""

    def __init__(self, arguments: dict[str, ActivationBank]) -> None:
        torch.set_num_threads(1)
        torch.zeros(BATCH_SIZE, D_IN)
        self.bank = arguments["bank"]
        self.idle_uss = psutil.Process().memory_full_info().uss

    def ready(self) -> bool:
        """Return once the process is up."""
        return True

    def read_epoch(self) -> None:
        """Read every row once, and keep the stream and its shard."""
        self.stream = self.bank.stream(batch_size=BATCH_SIZE, seed=os.getpid())
        for _ in range(self.bank.manifest.num_rows // BATCH_SIZE):
            next(self.stream)

    def memory(self) -> dict[str, int]:
        """Return bytes: private now, private before reading, resident."""
        info = psutil.Process().memory_full_info()
        return {"uss": info.uss, "idle_uss": self.idle_uss, "rss": info.rss}


def store_bytes() -> int:
    """Return the bytes that objects occupy in the store of this node."""
    time.sleep(RESOURCES_S)
    kind = "object_store_memory"
    return int(ray.cluster_resources()[kind] - ray.available_resources()[kind])


def total_pss() -> int:
    """Return the physical memory of the driver and everything it started, shared pages counted once."""
    driver = psutil.Process()
    total = 0
    for process in (driver, *driver.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # a helper ended meanwhile
            continue
    return total


def measure_readers(bank: ActivationBank, counts: Sequence[int] = READERS) -> list[str]:
    """Return one table row for each number of concurrent readers."""
    lines, readers = [], []
    for count in counts:
        while len(readers) < count:
            readers.append(Reader.remote({"bank": bank}))
        ray.get([reader.ready.remote() for reader in readers])
        ray.get([reader.read_epoch.remote() for reader in readers])
        memory = ray.get([reader.memory.remote() for reader in readers])
        grown = max(one["uss"] - one["idle_uss"] for one in memory)
        cells = [
            store_bytes(),
            sum(one["uss"] for one in memory) / count,
            grown,
            sum(one["rss"] for one in memory) / count,
            total_pss(),
        ]
        lines.append(f"| {count} | " + " | ".join(f"{cell / MB:.0f}" for cell in cells) + " |")
    return lines


def machine() -> str:
    """Return the processor model and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores"


def run(megabytes: int, directory: Path) -> str:
    """Build the banks, measure, and return the report."""
    num_tokens = max(1, round(megabytes * MB / (SHARD_ROWS * D_IN * 4))) * SHARD_ROWS
    sizes = {
        "num_tokens": num_tokens,
        "shard_tokens": SHARD_ROWS,
        "evaluation_tokens": 1024,
        "calibration_tokens": 1024,
    }
    bank = build_bank(Noise(), ActivationsSpec(**sizes, dtype="fp32"), directory)
    memory = measure_readers(bank)
    return f"""# Activation bank: memory

{machine()}. Bank of {num_tokens:,} rows of width {D_IN}, {bank.manifest.num_bytes / MB:.0f} MB as fp32, in shards of
{SHARD_ROWS:,} rows. Made by `python benchmarks/bank_memory.py --megabytes {megabytes}`.

Megabytes. Every reader has read the whole bank. The object store holds it once; a reader's private memory does not
contain it.
"Growth" is what reading the whole bank added to it, at most. RSS counts shared pages in every process; PSS, summed over
driver, readers and Ray's own processes, counts them once.

| readers | object store used | USS per reader | growth of USS | RSS per reader | PSS of all processes |
|---|---|---|---|---|---|
{chr(10).join(memory)}
"""


def main() -> None:
    """Parse the options, run, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bank_memory.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=int(4 * options.megabytes * MB) + 200_000_000,
    )
    with tempfile.TemporaryDirectory() as directory:
        report = run(options.megabytes, Path(directory))
    ray.shutdown()
    print(report)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
