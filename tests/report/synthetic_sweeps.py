"""Sweep directories for the report tests: written as a sweep leaves them, with numbers from closed formulas."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.search.confirm.records import (
    CONFIRM_FILE,
    CONFIRM_FOLDER,
    Configuration,
    ConfirmRecord,
    replicate_uid,
)
from vsae_search.search.records import (
    ArchitecturePlan,
    ReferenceRecord,
    SweepRecord,
    TrialRecord,
    trial_directory,
    write_record,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRUE_L0 = 2.4
D_SAE = 64
# architecture -> (delta_ce at L0 of one, decay with L0, smallest L0, largest L0)
CURVES = {
    "relu": (0.30, 0.55, 1.1, 40.0),
    "topk": (0.26, 0.75, 1.0, 16.0),
    "april": (0.28, 0.62, 1.4, 30.0),
    "vsae_iso": (0.40, 0.25, 21.3, 60.0),
}

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "javascript:alert(5)",
    "<svg/onload=alert(6)>",
    "<iframe src=javascript:alert(7)></iframe>",
    "{{ 7*7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "<!--<script>alert(8)//-->",
    "\u2028</style><style>*{background:url(http://evil.example/9)}</style>",
    "<a href='javascript:alert(10)'>x</a>",
    "%{customdata}<b onclick=alert(11)>$\\alpha$ &lt;script&gt;alert(12)",
)


def make_trial(architecture: str, number: int, **changes: Any) -> TrialRecord:
    """One completed trial on its architecture's curve, a bit above it by a fixed pseudo-random amount."""
    height, decay, low, high = CURVES.get(architecture, (0.3, 0.5, 1.0, 50.0))
    rng = np.random.default_rng([number, *architecture.encode()])
    l0 = float(low * (high / low) ** rng.random())
    delta_ce = float(height * math.exp(-decay * math.log2(l0)) * (1 + 0.8 * rng.random() ** 2))
    metrics = {
        "l0": l0,
        "delta_ce": delta_ce,
        "fvu": min(1.0, 3 * delta_ce),
        "dead_fraction": 0.4 * rng.random() ** 2,
        "mmcs": 0.97 - 0.08 * abs(math.log2(l0 / TRUE_L0)),
        "null_mmcs": 0.412,
        "recovered_fraction": max(0.0, 0.95 - 0.2 * abs(math.log2(l0 / TRUE_L0))),
    }
    fields: dict[str, Any] = {
        "uid": f"{architecture}-{number:04d}",
        "architecture": architecture,
        "number": number,
        "params": {"d_sae": D_SAE, "lr": float(10 ** rng.uniform(-4, -2)), "activation": "relu"},
        "seed": 1000 + number,
        "state": "completed",
        "metrics": metrics,
        "wall_s": 3.0 + rng.random(),
        "overhead_s": 0.1,
        "started_at": "2026-01-01T10:00:00+00:00",
        "ended_at": "2026-01-01T10:00:03+00:00",
    }
    return TrialRecord(**{**fields, **changes})


def make_sweep(name: str = "toy", architectures: tuple[str, ...] = tuple(CURVES), **changes: Any) -> SweepRecord:
    """The record of a finished sweep with a known true L0."""
    ranges = {"d_sae": D_SAE, "lr": {"log": [1e-4, 1e-2]}}
    fields: dict[str, Any] = {
        "name": name,
        "description": "Correlated and anticorrelated sets in a toy model.",
        "digest": "ab" * 32,
        "space": {"name": name, "architectures": {architecture: ranges for architecture in architectures}},
        "seed": 7,
        "status": "completed",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git_commit": "0123456789abcdef",
        "git_dirty": True,
        "reference": ReferenceRecord(l0=D_SAE, delta_ce=0.5, source="measured"),
        "loss_name": "extra toy-model loss",
        "loss_unit": "squared error",
        "subject": {"kind": "toy_model", "true_l0": TRUE_L0},
        "bank": {"key": "cd" * 16, "num_rows": 1_000_000, "scale": 1.234},
        "architectures": {entry: ArchitecturePlan(trials=12, startup=5) for entry in architectures},
        "resources": {"cpus_per_trial": 1.0},
        "started_at": "2026-01-01T10:00:00+00:00",
        "ended_at": "2026-01-01T10:04:00+00:00",
    }
    return SweepRecord(**{**fields, **changes})


def write_sweep(directory: Path, record: SweepRecord, trials: list[TrialRecord], space_yaml: str | None = None) -> Path:
    """Write a sweep directory."""
    directory.mkdir(parents=True)
    write_record(directory / "sweep.json", record)
    text = f"name: {record.name}\nsubject: {{type: toy_model}}\n" if space_yaml is None else space_yaml
    (directory / "space.yaml").write_text(text, encoding="utf-8")
    for trial in trials:
        folder = trial_directory(directory, trial.uid)
        folder.mkdir(parents=True)
        write_record(folder / "record.json", trial)
    return directory


def write_runs(directory: Path, trials: list[TrialRecord], address: str | None = "http://127.0.0.1:5000") -> None:
    """Write the index of MLflow runs."""
    runs = {trial.uid: f"{index:032x}" for index, trial in enumerate(trials)}
    (directory / "tracking").mkdir()
    index = {"address": address, "experiment_id": "1", "sweep": "f" * 32, "trials": runs}
    (directory / "tracking" / "runs.json").write_text(json.dumps(index), encoding="utf-8")


def ordinary(directory: Path) -> tuple[Path, list[TrialRecord]]:
    """Four architectures with 12 trials each; among them diverged, failed, stopped and non-finite ones."""
    trials = [make_trial(architecture, number) for architecture in CURVES for number in range(12)]
    trials[3] = make_trial("relu", 3, state="diverged", metrics={"l0": math.nan}, error="loss is nan at step 12")
    trials[5] = make_trial("relu", 5, state="stopped")
    trials[14] = make_trial("topk", 2, state="failed", metrics={}, error="worker died\nTraceback ...")
    trials[26] = make_trial("april", 2, metrics={"l0": 3.0, "delta_ce": math.inf})
    trials[27] = make_trial("april", 3, metrics={"l0": 70.0, "delta_ce": 0.9})
    return write_sweep(directory, make_sweep(), trials), trials


HELD_OUT = "ef" * 32


def write_confirmation(
    directory: Path,
    points: dict[str, list[list[tuple[float, float]]]],
    *,
    seeds: tuple[int, ...] = (11, 12, 13, 14, 15, 16),
    lost: tuple[str, ...] = (),
    architectures: Sequence[str] = (),
    **changes: Any,
) -> None:
    """Write the confirmation of a sweep.

    Args:
        directory: The sweep directory; the configurations must be trials in it.
        points: uid -> replicate -> (L0, delta_ce); NaN stands for a replicate that diverged.
        seeds: Seed of each replicate.
        lost: Uids of replicates that failed.
        architectures: Architecture of each configuration; by default what its uid begins with.
        **changes: Fields of the record.
    """
    home = directory / CONFIRM_FOLDER
    names = architectures or [uid.rpartition("-")[0] for uid in points]
    configurations = tuple(
        Configuration(uid=uid, architecture=name, rank=0) for uid, name in zip(points, names, strict=True)
    )
    fields: dict[str, Any] = {
        "name": f"{directory.name}/confirm",
        "digest": "ab" * 32,
        "seed": 7,
        "status": "completed",
        "bank": {"evaluation_digest": HELD_OUT, "evaluation_rows": 20_000},
        "margin": 1,
        "seeds": seeds,
        "configurations": configurations,
    }
    home.mkdir()
    write_record(home / CONFIRM_FILE, ConfirmRecord(**{**fields, **changes}))
    for uid, replicates in points.items():
        for number, (l0, delta_ce) in enumerate(replicates):
            name = replicate_uid(uid, number)
            state = "failed" if name in lost else "completed" if math.isfinite(delta_ce) else "diverged"
            trial = make_trial(
                uid.rpartition("-")[0],
                number,
                uid=name,
                state=state,
                seed=seeds[number],
                metrics={"l0": l0, "delta_ce": delta_ce} if state == "completed" else {},
            )
            folder = trial_directory(home, name)
            folder.mkdir(parents=True)
            write_record(folder / "record.json", trial)


def confirmed(directory: Path, num_seeds: int = 6, shift: float = 0.02) -> Path:
    """The ordinary sweep with three configurations per architecture trained again: noisier and a little worse."""
    _, trials = ordinary(directory)
    points: dict[str, list[list[tuple[float, float]]]] = {}
    for architecture in CURVES:
        usable = [
            trial
            for trial in trials
            if trial.architecture == architecture
            and trial.state == "completed"
            and math.isfinite(trial.metrics["delta_ce"])
            and trial.metrics["l0"] < D_SAE
        ]
        usable.sort(key=lambda trial: trial.metrics["l0"])
        for third in range(3):  # the best of each third of the range of L0
            part = usable[third * len(usable) // 3 : (third + 1) * len(usable) // 3]
            trial = min(part, key=lambda one: one.metrics["delta_ce"])
            rng = np.random.default_rng([*trial.uid.encode()])
            points[trial.uid] = [
                (trial.metrics["l0"] * (1 + 0.02 * rng.random()), trial.metrics["delta_ce"] + shift * rng.random())
                for _ in range(num_seeds)
            ]
    write_confirmation(directory, points, seeds=tuple(range(11, 11 + num_seeds)))
    return directory
