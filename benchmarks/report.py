"""What a report of a thousand trials costs: processor time, size of the page, and how it grows with confirmed runs.

Run by hand: ``python benchmarks/report.py [--trials 1000] [--output benchmarks/results/report.md]``.

The sweep is made up, but written as a sweep leaves it: 18 architectures with 6 hyper-parameters and 12 metrics per
trial, every trial with a link to its run, a training curve and densities; then the same with 12 configurations per
architecture confirmed with 6 seeds.
Processor time is of the whole process, imports included, which other programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vsae_search.evaluation.metrics.sparsity import HISTOGRAM_EDGES
from vsae_search.search.confirm.records import CONFIRM_FILE, CONFIRM_FOLDER, Configuration, ConfirmRecord, replicate_uid
from vsae_search.search.curves import write_curve
from vsae_search.search.records import (
    ArchitecturePlan,
    ReferenceRecord,
    RungRecord,
    SweepRecord,
    TrialRecord,
    trial_directory,
    write_record,
)
from vsae_search.training.curve import curve_steps

ARCHITECTURES = (
    *("relu", "april", "p_anneal", "gated", "jumprelu", "topk", "batch_topk", "matryoshka", "topk_ridge"),
    *("vsae_iso", "vsae_laplace", "vsae_mix", "vsae_multi", "vsae_rectified", "vsae_spike_slab", "vsae_topk"),
    *("pca", "random_dictionary"),
)
CONFIRMED, SEEDS = 12, 6
LIMIT_S, LIMIT_BYTES = 10.0, 6_000_000
CHILD = """
import sys, time
from pathlib import Path
from vsae_search.report import write_report
paths = write_report(Path(sys.argv[1]), Path(sys.argv[2]))
print(time.process_time(), paths.html.stat().st_size, paths.json.stat().st_size)
"""


def trial(architecture: str, number: int, uid: str, seed: int, noise: float = 1.0) -> TrialRecord:
    """One completed trial near the curve of its architecture."""
    place = ARCHITECTURES.index(architecture)
    rng = np.random.default_rng([place, number])
    l0 = float(2 ** rng.uniform(0, 6.5))
    delta_ce = float((0.4 + 0.02 * place) * math.exp(-0.5 * math.log2(l0)) * (1 + rng.random()) * noise)
    metrics = {f"metric_{index}": float(rng.random()) for index in range(6)}
    metrics |= {"l0": l0 * noise, "delta_ce": delta_ce, "fvu": float(rng.random()), "dead_fraction": 0.1, "mmcs": 0.8}
    return TrialRecord(
        uid=uid,
        architecture=architecture,
        number=number,
        params={"d_sae": 1024, **{f"parameter_{index}": float(10 ** rng.uniform(-4, 0)) for index in range(5)}},
        seed=seed,
        state="completed",
        metrics=metrics,
        rungs=(RungRecord(index=0, fraction=1.0, step=1000, tokens=1_000_000, metrics=metrics),),
        train_s=3.0,
        wall_s=4.0,
        started_at="2026-01-01T10:00:00+00:00",
        ended_at=f"2026-01-01T{10 + number // 60:02d}:{number % 60:02d}:00+00:00",
    )


def write_sweep(directory: Path, num_trials: int) -> list[TrialRecord]:
    """A sweep with an equal budget per architecture."""
    each = -(-num_trials // len(ARCHITECTURES))
    record = SweepRecord(
        name="large",
        digest="ab" * 32,
        seed=1,
        status="completed",
        reference=ReferenceRecord(l0=128, delta_ce=0.6, source="given"),
        loss_name="delta-CE",
        loss_unit="nats per token",
        architectures={name: ArchitecturePlan(trials=each, startup=8) for name in ARCHITECTURES},
    )
    trials = [trial(name, number, f"{name}-{number:04d}", number) for name in ARCHITECTURES for number in range(each)]
    directory.mkdir()
    write_record(directory / "sweep.json", record, durable=False)
    _write_trials(directory, trials)
    (directory / "tracking").mkdir()
    runs = {one.uid: f"{index:032x}" for index, one in enumerate(trials)}
    index = {"address": "http://127.0.0.1:5000", "experiment_id": "1", "sweep": "f" * 32, "trials": runs}
    (directory / "tracking" / "runs.json").write_text(json.dumps(index), encoding="utf-8")
    return trials


def confirm(directory: Path, trials: list[TrialRecord]) -> None:
    """The 12 best configurations of every architecture, trained again with 6 seeds."""
    chosen = []
    for name in ARCHITECTURES:
        own = sorted((one for one in trials if one.architecture == name), key=lambda one: one.metrics["l0"])
        groups = (own[k * len(own) // CONFIRMED : (k + 1) * len(own) // CONFIRMED] for k in range(CONFIRMED))
        chosen += [min(group, key=lambda one: one.metrics["delta_ce"]) for group in groups if group]
    home = directory / CONFIRM_FOLDER
    home.mkdir()
    record = ConfirmRecord(
        name="large/confirm",
        digest="ab" * 32,
        seed=1,
        status="completed",
        bank={"evaluation_digest": "cd" * 32, "evaluation_rows": 20_000},
        margin=1,
        seeds=tuple(range(101, 101 + SEEDS)),
        configurations=tuple(Configuration(uid=one.uid, architecture=one.architecture, rank=0) for one in chosen),
    )
    write_record(home / CONFIRM_FILE, record, durable=False)
    rng = np.random.default_rng(0)
    again = [
        trial(one.architecture, one.number, replicate_uid(one.uid, seed), 101 + seed, 1 + 0.05 * rng.random())
        for one in chosen
        for seed in range(SEEDS)
    ]
    _write_trials(home, again)


def _write_trials(directory: Path, trials: list[TrialRecord]) -> None:
    for one in trials:
        folder = trial_directory(directory, one.uid)
        folder.mkdir(parents=True)
        write_record(folder / "record.json", one, durable=False)
        _write_curve_and_densities(folder, one)


def _write_curve_and_densities(folder: Path, one: TrialRecord) -> None:
    """A full training curve, and the densities of 1024 latents, as a trial leaves them."""
    rng = np.random.default_rng(one.seed)
    steps = sorted(curve_steps(20_000))
    columns = {"step": steps, "tokens": [4096 * step for step in steps]}
    names = ("total", "reconstruction", "grad_norm", "l0", "dead_fraction", *(["kl"] if "vsae" in one.uid else []))
    columns |= {name: [float(value) for value in rng.random(len(steps)).round(6)] for name in names}
    write_curve(folder, columns)
    density_F = 10 ** rng.uniform(-6, 0, 1024)
    histogram, edges = np.histogram(np.log10(density_F), bins=HISTOGRAM_EDGES)
    arrays = {"density": density_F, "density_histogram": histogram, "density_histogram_edges": edges}
    save_file(arrays, folder / "arrays.safetensors")


def measure(directory: Path, out: Path) -> tuple[float, int, int]:
    """Processor seconds, bytes of the page and of report.json."""
    command = [sys.executable, "-c", CHILD, str(directory), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, page, numbers = done.stdout.split()
    return float(seconds), int(page), int(numbers)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/report.md"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "large"
        trials = write_sweep(directory, arguments.trials)
        rows.append(("search only", *measure(directory, Path(folder) / "out")))
        confirm(directory, trials)
        what = f"and {len(ARCHITECTURES) * CONFIRMED * SEEDS} confirmed trainings"
        rows.append((what, *measure(directory, Path(folder) / "out")))
    lines = [
        f"# Report of {len(trials)} trials, {len(ARCHITECTURES)} architectures",
        "",
        f"`python benchmarks/report.py --trials {arguments.trials}`, Python {platform.python_version()}, "
        f"{platform.machine()}. Processor seconds of the whole process, imports included (limit {LIMIT_S:g}); "
        f"page at most {LIMIT_BYTES / 1e6:g} MB, of which Plotly, compressed, is 2.0.",
        "",
        "| sweep | processor s | page MB | report.json MB |",
        "|---|---:|---:|---:|",
        *(f"| {what} | {seconds:.1f} | {page / 1e6:.2f} | {size / 1e6:.2f} |" for what, seconds, page, size in rows),
    ]
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    if any(seconds > LIMIT_S or page > LIMIT_BYTES for _, seconds, page, _ in rows):
        raise SystemExit("over the limit")


if __name__ == "__main__":
    main()
