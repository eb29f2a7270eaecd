"""Stopping and going on: everything that decides how training continues, in one safetensors file and one JSON.

``checkpoint.json`` names its tensor file and is replaced last, in one step; a crash at any moment leaves the checkpoint
before or the new one, complete. The one before is kept beside it (``checkpoint-before.json`` and its tensor file), for
the case that a disk loses or changes what was written.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import CorruptFile, UserInputError
from vsae_search.saes.tensor_file import layout_of, read_json, read_tensors, write_json, write_tensors
from vsae_search.training.optimiser import trainable
from vsae_search.training.rung import Rung

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vsae_search.saes import SparseAutoencoder
    from vsae_search.space import TrainingSpec
    from vsae_search.training.dead import DeadTracker

RECORD_FILE = "checkpoint.json"
EARLIER_FILE = "checkpoint-before.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where training stands, apart from tensors.

    Attributes:
        step: Optimiser steps done.
        tokens: Rows seen.
        restarted_at: Step at which latents were last resampled.
        train_s: Seconds of training, over all attempts.
        sums: Loss sums since the last rung.
        count: Steps in these sums.
        recent_sums: Loss sums since the last point of the training curve.
        recent_count: Steps in these.
        curve: Columns of the training curve so far.
        pending: Rungs reached at exactly this step; reported (again) by whoever resumes here.
    """

    step: int = 0
    tokens: int = 0
    restarted_at: int | None = None
    train_s: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    recent_sums: dict[str, float] = field(default_factory=dict)
    recent_count: int = 0
    curve: dict[str, list[float]] = field(default_factory=dict)
    pending: list[Rung] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of one training is kept.

    Attributes:
        directory: Holds ``checkpoint.json``, the record before it, and a tensor file for each.
        sae: The autoencoder in training.
        optimiser: Its optimiser; None for an architecture that is not trained by gradient.
        tracker: Its dead-latent counter.
        generator: Generator of resampling draws.
        spec: The training budget; a checkpoint of another one is refused.
    """

    directory: Path
    sae: SparseAutoencoder
    optimiser: torch.optim.Adam | None
    tracker: DeadTracker
    generator: torch.Generator
    spec: TrainingSpec

    def save(self, progress: Progress) -> None:
        """Write the present state, and keep the one before it; what is older is removed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"state-{progress.step}.safetensors"
        sha256 = write_tensors(path, self._tensors())
        record = {"identity": self._identity(), "file": path.name, "sha256": sha256, "progress": asdict(progress)}
        latest, before = self.directory / RECORD_FILE, self.directory / EARLIER_FILE
        kept = {path.name}
        if latest.exists() and _state_of(latest) != path.name:
            os.replace(latest, before)
        if before.exists():
            kept.add(_state_of(before))
        write_json(latest, record)
        for other in self.directory.glob("state-*.safetensors"):
            if other.name not in kept:
                other.unlink(missing_ok=True)

    def restore(self) -> Progress | None:
        """Put a saved state back in place: the last one, or the one before when the last cannot be believed.

        Returns:
            Where training stood, or None when nothing has been saved.

        Raises:
            CorruptFile: Every checkpoint was altered or is incomplete.
            UserInputError: It belongs to another architecture, configuration, seed or budget.
        """
        paths = [path for name in (RECORD_FILE, EARLIER_FILE) if (path := self.directory / name).exists()]
        for path in paths[:-1]:
            try:
                return self._restore(path)
            except CorruptFile as error:
                logger.warning("training goes on from the checkpoint before the last: %s", error.message)
                path.unlink()  # or the next save would keep it in place of the good one
        return self._restore(paths[-1]) if paths else None

    def _restore(self, path: Path) -> Progress:
        record = read_json(path)
        if record.get("identity") != self._identity():
            raise UserInputError(
                f"{path} belongs to another configuration", "give the trial a directory of its own, or delete this one"
            )
        try:
            file, sha256 = str(record["file"]), str(record["sha256"])
            content = dict(record["progress"])
            progress = Progress(**content | {"pending": [Rung(**rung) for rung in content["pending"]]})
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path}: fields are missing or wrong", "delete it and train again") from error
        if "/" in file or "\\" in file:
            raise CorruptFile(f"{path}: names a file outside its directory", "delete it and train again")
        tensors = read_tensors(self.directory / file, expected=layout_of(self._tensors()), sha256=sha256)
        self._put_back(tensors)
        return progress

    def _identity(self) -> dict[str, Any]:
        return {
            "architecture": self.sae.name,
            "config": self.sae.config.model_dump(mode="json"),
            "seed": self.sae.seed,
            "training": self.spec.model_dump(mode="json"),
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= {f"training.{name}": tensor for name, tensor in self._training_buffers().items()}
        dead_F = torch.zeros_like(self.tracker.silent_F, dtype=torch.bool)
        dead_F[self.sae.dead_K.to(dead_F.device)] = True
        tensors |= {"dead_F": dead_F, "silent_F": self.tracker.silent_F}
        tensors |= {"rng.torch": torch.get_rng_state(), "rng.resample": self.generator.get_state()}
        if self.tracker.silent_F.is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.tracker.silent_F.device)
        if self.optimiser is not None:
            for name, parameter in trainable(self.sae).items():
                state = self.optimiser.state.get(parameter) or fresh_moments(self.optimiser, parameter)
                tensors |= {f"adam.{name}.{key}": value for key, value in state.items()}
        return tensors

    def _training_buffers(self) -> dict[str, Tensor]:
        """Buffers that are not stored with the autoencoder (``persistent=False``) but decide how training goes on."""
        stored = self.sae.state_dict().keys()
        return {name: buffer for name, buffer in self.sae.named_buffers() if name not in stored}

    def _put_back(self, tensors: dict[str, Tensor]) -> None:
        self.sae.load_state_dict(
            {name.removeprefix("sae."): tensor for name, tensor in tensors.items() if name.startswith("sae.")}
        )
        for name, buffer in self._training_buffers().items():
            buffer.copy_(tensors[f"training.{name}"])
        self.sae.initialised = True
        device = self.tracker.silent_F.device
        self.sae.mark_dead(tensors["dead_F"].to(device))
        self.tracker.silent_F.copy_(tensors["silent_F"])
        torch.set_rng_state(tensors["rng.torch"])
        self.generator.set_state(tensors["rng.resample"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], device)
        if self.optimiser is not None:
            for name, parameter in trainable(self.sae).items():
                state = fresh_moments(self.optimiser, parameter)
                for key, value in state.items():
                    value.copy_(tensors[f"adam.{name}.{key}"])
                self.optimiser.state[parameter] = state


def _state_of(path: Path) -> str:
    """Name of the tensor file of a record; empty when the record cannot be read."""
    try:
        return str(read_json(path).get("file", ""))
    except CorruptFile:
        return ""


def fresh_moments(optimiser: torch.optim.Adam, parameter: Tensor) -> dict[str, Tensor]:
    """Adam state of a parameter before its first step; the fused form counts its steps on the device."""
    device = parameter.device if optimiser.defaults["fused"] else "cpu"
    moments = {key: torch.zeros_like(parameter) for key in _MOMENTS}
    return {"step": torch.zeros((), dtype=torch.float32, device=device), **moments}
