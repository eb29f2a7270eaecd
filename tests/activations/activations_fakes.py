"""A tiny deterministic subject whose rows say where they come from."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.subjects import Baseline, FeatureGroup, GroundTruth, Rows

if TYPE_CHECKING:
    from pathlib import Path

SPLIT_CODES = {"train": 1, "calibration": 2, "evaluation": 3, "confirm": 4}


def _truth() -> GroundTruth:
    return GroundTruth(
        directions_MD=np.eye(5, 4, dtype=np.float32),
        represented_M=np.array([True, True, True, True, False]),
        probability_M=np.full(5, 0.5),
        sets=(FeatureGroup("correlated", (0, 1)),),
        true_l0=2.0,
    )


@dataclass(frozen=True)
class FakeSubject:
    """Column 0 numbers the rows of a split (from 1); the rest is noise. Every harvest leaves a file in ``log``."""

    log: Path
    d_in: int = 4
    seed: int = 0
    row_number_step: int = 1_000
    loss_name: str = "extra loss"
    loss_unit: str = "1"
    truth: GroundTruth | None = field(default_factory=_truth)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"fake {self.d_in} {self.seed}".encode()).hexdigest()

    def harvest(self, index: int, num_rows: int, split: str = "train", *, shard_rows: int | None = None) -> Rows:
        (self.log / f"{split}-{index}-{uuid.uuid4().hex}").touch()
        generator = np.random.default_rng([self.seed, SPLIT_CODES[split], index, num_rows])
        x_ND = generator.standard_normal((num_rows, self.d_in)).astype(np.float32)
        x_ND[:, 0] = 1 + index * self.row_number_step + np.arange(num_rows)
        features_NM = generator.random((num_rows, 5)).astype(np.float32)
        return Rows(x_ND, features_NM if split == "evaluation" else None)

    def harvests(self) -> list[str]:
        """What was harvested so far: ``split-index``, sorted."""
        return sorted(path.name.rsplit("-", 1)[0] for path in self.log.iterdir())

    def baseline(self, rows: Rows) -> Baseline:
        raise NotImplementedError

    def splice(self, rows: Rows, xhat_ND: Any) -> Any:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"kind": "fake"}


class TextSubject(FakeSubject):
    """A subject that wants a GPU. Training shards are harvested only while another GPU harvests too."""

    wants_gpu = True

    def prepare(self, num_rows: Any, shard_rows: int) -> None:
        (self.log / f"prepare-{shard_rows}-{sorted(num_rows.items())}").touch()

    def devices(self) -> list[str]:
        return sorted(path.name for path in self.log.parent.glob("gpu *"))

    def processes(self) -> list[int]:
        return [int(path.name.split()[1]) for path in self.log.parent.glob("process *")]

    def harvest(self, index: int, num_rows: int, split: str = "train", *, shard_rows: int | None = None) -> Rows:
        (self.log.parent / f"gpu {os.environ.get('CUDA_VISIBLE_DEVICES')}").touch()
        (self.log.parent / f"process {os.getpid()}").touch()
        end = time.monotonic() + 60
        while split == "train" and len(self.devices()) < 2:
            assert time.monotonic() < end, "no second GPU harvests"
            time.sleep(0.02)
        return super().harvest(index, num_rows, split)


class Unrepeatable(FakeSubject):
    """A subject that breaks its promise: the same request gives other rows each time."""

    def harvest(self, index: int, num_rows: int, split: str = "train", *, shard_rows: int | None = None) -> Rows:
        rows = super().harvest(index, num_rows, split)
        return Rows(rows.x_ND + np.float32(len(self.harvests())), rows.features_NM)
