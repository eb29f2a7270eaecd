"""A tiny search space, and a bank in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from vsae_search.activations import BatchStream
from vsae_search.space import SearchSpace
from vsae_search.subjects import build_subject

ARCHITECTURES: dict[str, Any] = {
    "topk": {"d_sae": 16, "k": {"choice": [1, 2, 4]}, "lr": {"log": [1e-3, 1e-2]}},
    "relu": {"d_sae": 16, "lr": {"log": [1e-3, 1e-2]}},
}


def tiny_space(**changes: Any) -> SearchSpace:
    """Two architectures, four trials of sixteen steps, one at a time."""
    values = {
        "name": "tiny",
        "seed": 1,
        "subject": {"type": "directions", "d_in": 8, "features": {"count": 12, "probability": 0.1}},
        "activations": {
            "num_tokens": 2048,
            "evaluation_tokens": 512,
            "calibration_tokens": 256,
            "shard_tokens": 1024,
        },
        "training": {"num_tokens": 2048, "batch_size": 128, "rungs": [0.5, 1.0]},
        "architectures": ARCHITECTURES,
        "search": {"trials": 4, "sampler": "qmc", "max_retries": 1},
        "resources": {"max_concurrent": 1},
    }
    return SearchSpace.model_validate(values | changes)


class MemoryBank:
    """The bank of a subject without Ray."""

    def __init__(self, subject, num_rows: int = 2048) -> None:
        self.rows_ND = subject.harvest(0, num_rows, "train").x_ND
        self._evaluation = subject.harvest(0, 512, "evaluation")
        self._calibration = subject.harvest(0, 256, "calibration").x_ND
        scale = float(np.sqrt(subject.d_in / np.square(self.rows_ND).sum(axis=1).mean()))
        self.manifest = SimpleNamespace(scale=scale)

    def stream(self, *, batch_size: int, seed: int, device: str = "cpu") -> BatchStream:
        return BatchStream(
            lambda _: self.rows_ND,
            [len(self.rows_ND)],
            d_in=self.rows_ND.shape[1],
            dtype="fp32",
            scale=self.manifest.scale,
            batch_size=batch_size,
            seed=seed,
            device=device,
        )

    def evaluation(self):
        return self._evaluation

    def calibration(self):
        return self._calibration


def tiny_subject(cache):
    return build_subject(tiny_space().subject, cache)
