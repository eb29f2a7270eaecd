"""A bank of twice the object store, read from memory and from spill files in turns.

``benchmarks/harvest.py`` starts this file twice, as two drivers with a Ray each, and tells them in turn to read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bank_memory
import numpy as np
import ray
import torch

from vsae_search.activations import build_bank
from vsae_search.space import ActivationsSpec

BANK_BYTES = 300_000_000
STORES = {"in memory": 600_000_000, "spilled": 150_000_000}
ROUNDS = 7


def section() -> str:
    """The table."""
    readers = {name: _start(store) for name, store in STORES.items()}
    built = {name: _told(reader) for name, reader in readers.items()}
    epochs: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, reader in readers.items():
            reader.stdin.write("read\n")
            reader.stdin.flush()
            epochs[name].append(_told(reader))
    for reader in readers.values():
        reader.stdin.close()
        reader.wait()
    rows = []
    for name, store in STORES.items():
        first, later = epochs[name][0], epochs[name][1:]
        rates = [epoch["rows"] / epoch["wall_s"] / 1e6 for epoch in later]
        rows.append(
            f"| {name} | {store / 1e6:.0f} | {later[-1]['spilled_bytes'] / 1e6:.0f} | {built[name]['plan']}"
            f" | {first['rows'] / first['wall_s'] / 1e6:.2f}"
            f" | {np.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) |"
        )
    ratios = [
        memory["wall_s"] / spilled["wall_s"]
        for memory, spilled in zip(epochs["in memory"][1:], epochs["spilled"][1:], strict=True)
    ]
    return f"""## A bank larger than the object store

A bank of {built["spilled"]["bank_bytes"] / 1e6:.0f} MB (rows of width {bank_memory.D_IN}, fp32), one stream, batches of
{bank_memory.BATCH_SIZE}; two drivers with a Ray each, read in turns, {ROUNDS} epochs each. Wall time, since Ray's own
processes do the reading from disk; the spill files are in the page cache of the machine. Median (range) over the
epochs after the first.

| bank | store, MB | in spill files at the end, MB | plan, before any work | first epoch, M rows/s | later, M rows/s |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Spilled against in memory: {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).
"""


def _start(store: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(store)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _told(reader: subprocess.Popen[str]) -> dict[str, Any]:
    assert reader.stdout is not None
    return dict(json.loads(reader.stdout.readline()))


def serve(store: int, folder: Path) -> None:
    """Build a bank with an object store of a size, and read an epoch for every line of input."""
    spill = folder / "spill"
    spill.mkdir()
    ray.cloudpickle.register_pickle_by_value(bank_memory)
    options = {"include_dashboard": False, "log_to_driver": False, "object_spilling_directory": str(spill)}
    ray.init(address="local", num_cpus=2, object_store_memory=store, **options)
    num_tokens = BANK_BYTES // (4 * bank_memory.D_IN)
    spec = ActivationsSpec(num_tokens=num_tokens, shard_tokens=bank_memory.SHARD_ROWS, evaluation_tokens=1024)
    bank = build_bank(bank_memory.Noise(), spec, folder / "bank")
    spilled = f"{bank.plan.spilled_bytes / 1e6:.0f} MB to spill" if bank.plan.spilled_bytes else "nothing to spill"
    _tell(plan=spilled, bank_bytes=bank.manifest.num_bytes)
    stream = bank.stream(batch_size=bank_memory.BATCH_SIZE, seed=0)
    batches = num_tokens // bank_memory.BATCH_SIZE
    for _ in sys.stdin:
        begun = time.perf_counter()
        for _ in range(batches):
            next(stream)
        wall_s = time.perf_counter() - begun
        on_disk = sum(file.stat().st_size for file in spill.rglob("*") if file.is_file())
        _tell(rows=batches * bank_memory.BATCH_SIZE, wall_s=wall_s, spilled_bytes=on_disk)
    ray.shutdown()


def _tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        serve(int(sys.argv[1]), Path(directory))
