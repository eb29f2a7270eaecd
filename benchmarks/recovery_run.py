"""One training of the recovery benchmark: rows in memory, fit, evaluate. No Ray.

Shapes: N rows, B batch, D d_in, M features.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recovery_plan import BATCH_SIZE, D_IN, D_SAE, GROUP_SIZE, LEARNING_RATE, NUM_FEATURES, PROBABILITY, TOYS, Run

from vsae_search import saes
from vsae_search.errors import Diverged
from vsae_search.evaluation import evaluate
from vsae_search.space import DirectionsSubject, TrainingSpec
from vsae_search.subjects import FeatureGroup, GroundTruth, build_subject
from vsae_search.training import fit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vsae_search.evaluation import Evaluation
    from vsae_search.subjects import Baseline, Rows, Subject

METRICS = (
    "mmcs",
    "null_mmcs",
    "mcc",
    "null_mcc",
    "recovered_fraction",
    "f1",
    "precision",
    "recall",
    "leakage",
    "null_leakage",
    "merge_rate",
    "composite_rate",
    "fvu",
    "dead_fraction",
    "l0",
)
EVALUATION_ROWS, CALIBRATION_ROWS, SHARD_ROWS = 20_000, 16_384, 65_536


class Judged:
    """A subject whose ground truth names the features that belong together, whatever way they were drawn.

    Leakage and merging are then measured on every toy, by one definition, over the same pairs. For independent
    features the pairs mean nothing, and show what these numbers are without any dependence.
    """

    def __init__(self, subject: Subject, size: int) -> None:
        assert subject.truth is not None, "a toy knows its features"
        count = len(subject.truth.directions_MD)
        groups = (FeatureGroup("correlated", tuple(range(start, start + size))) for start in range(0, count, size))
        self.truth: GroundTruth = replace(subject.truth, sets=tuple(groups))
        self._subject = subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)


@dataclass(frozen=True, eq=False)
class Data:
    """A toy with its rows; everything that runs of one toy and seed share."""

    subject: Subject
    judged: Judged
    x_ND: NDArray[np.float32]
    calibration_BD: Tensor
    rows: Rows
    baseline: Baseline
    scale: float

    def batches(self) -> Iterator[Tensor]:
        """Endless batches, each a copy, in the same order for every run."""
        while True:
            for start in range(0, len(self.x_ND) - BATCH_SIZE + 1, BATCH_SIZE):
                yield torch.from_numpy(self.x_ND[start : start + BATCH_SIZE].copy())


@lru_cache(maxsize=1)
def data(toy: str, seed: int, num_rows: int, cache: Path) -> Data:
    """Draw a toy and its rows, and scale them to E‖x‖² = d; every row is new, none is seen twice in training."""
    features = {"count": NUM_FEATURES, "probability": PROBABILITY, **TOYS[toy]}
    spec = DirectionsSubject.model_validate({"type": "directions", "d_in": D_IN, "features": features, "seed": seed})
    subject = build_subject(spec, cache)
    shards = [subject.harvest(index, SHARD_ROWS).x_ND for index in range(math.ceil(num_rows / SHARD_ROWS))]
    x_ND = np.concatenate(shards)[:num_rows]
    scale = math.sqrt(D_IN / float(np.square(x_ND, dtype=np.float64).sum(axis=1).mean()))
    calibration_ND = subject.harvest(0, CALIBRATION_ROWS, "calibration").x_ND
    rows = subject.harvest(0, EVALUATION_ROWS, "evaluation")
    return Data(
        subject=subject,
        judged=Judged(subject, GROUP_SIZE.get(toy, 2)),
        x_ND=x_ND * np.float32(scale),
        calibration_BD=torch.from_numpy(calibration_ND * np.float32(scale)),
        rows=rows,
        baseline=subject.baseline(rows),
        scale=scale,
    )


def execute(run: Run, cache: Path) -> dict[str, Any]:
    """Train and evaluate one run.

    Returns:
        ``metrics`` by key, or ``error`` when the training diverged; ``train_s`` and ``evaluate_s``.
    """
    torch.set_num_threads(1)
    num_rows = run.steps * BATCH_SIZE
    toy = data(run.toy, run.seed, num_rows, cache)
    params = {"d_in": D_IN, "d_sae": D_SAE, "lr": LEARNING_RATE, **run.params}
    sae = saes.create(run.architecture, seed=run.seed, **params)
    sae.initialise(toy.calibration_BD)
    _tell_truth(sae, toy)
    training = TrainingSpec(num_tokens=num_rows, batch_size=BATCH_SIZE, rungs=(1.0,))
    begun = time.perf_counter()
    try:
        fit(sae, toy.batches(), training, on_rung=lambda _: None)
        trained = time.perf_counter()
        evaluation = _evaluate(sae, toy)
    except Diverged as error:
        return {"error": error.message, "metrics": {}, "train_s": time.perf_counter() - begun, "evaluate_s": 0.0}
    return {
        "metrics": {**evaluation.metrics, **_own_metrics(sae)},
        "train_s": trained - begun,
        "evaluate_s": time.perf_counter() - trained,
    }


def _tell_truth(sae: saes.SparseAutoencoder, toy: Data) -> None:
    """Give the true features to an oracle control."""
    if sae.wants_truth:
        truth = toy.subject.truth
        assert truth is not None, "a toy knows its features"
        sae.assign_sets(torch.from_numpy(truth.directions_MD), [(group.kind, group.members) for group in truth.sets])


def _evaluate(sae: saes.SparseAutoencoder, toy: Data) -> Evaluation:
    sae.calibrate(toy.calibration_BD)
    subject: Any = toy.judged
    return evaluate(sae, toy.rows, scale=toy.scale, subject=subject, baseline=toy.baseline, only=METRICS)


def _own_metrics(sae: saes.SparseAutoencoder) -> dict[str, float]:
    """Finite diagnostics of the architecture, under names that cannot clash."""
    found = {f"own_{key}": float(value) for key, value in sae.metrics().items() if math.isfinite(value)}
    if hasattr(sae, "sets"):
        found["own_num_sets"] = float(len(sae.sets()))  # type: ignore[operator]
    return found
