"""What is written beside the weights: which activation they describe, where they come from, how good they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vsae_search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsae_search.search import SweepRecord, TrialRecord

_FOLDED = {"fold_ln": True, "center_writing_weights": True, "center_unembed": True, "fold_value_biases": True}
"""How TransformerLens is asked for a model whose weights it rewrites; without it, ``from_pretrained_no_processing``."""


@dataclass(frozen=True)
class Facts:
    """Where an autoencoder comes from.

    Attributes:
        sweep: Name of the sweep.
        uid: Its trial.
        architecture: Registered name.
        params: Hyper-parameters.
        seed: Training seed.
        scale: The input scale that was folded into the weights.
        batch_size: Rows of a training step.
        training_tokens: Rows that it was trained on.
        metrics: Final metrics, by the names of docs/metrics.md.
        subject: What the subject says about itself.
    """

    sweep: str
    uid: str
    architecture: str
    params: Mapping[str, Any]
    seed: int
    scale: float
    batch_size: int
    training_tokens: int
    metrics: Mapping[str, float]
    subject: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Name of the model; of a local folder only the last part."""
        if self.subject.get("kind") != "language_model":
            return str(self.subject.get("kind", "unknown"))
        name = str(self.subject.get("model", "unknown"))
        return Path(name).name if self.subject.get("folder") else name

    @property
    def hook(self) -> str:
        """The activation: the hook of a language model, ``toy_model.hidden`` or ``directions.activation``."""
        if self.subject.get("kind") == "language_model":
            return str(self.subject.get("hook", "unknown"))
        return "toy_model.hidden" if self.subject.get("kind") == "toy_model" else f"{self.model}.activation"

    @property
    def layer(self) -> int | None:
        """Block that the hook is in; None outside a block."""
        parts = self.hook.split(".")
        return int(parts[1]) if len(parts) > 2 and parts[0] == "blocks" and parts[1].isdigit() else None

    @property
    def dataset(self) -> str | None:
        """The text that the activations came from; None for a toy."""
        text = self.subject.get("text")
        return str(text.get("name", text.get("source"))) if isinstance(text, dict) else None

    @property
    def context_length(self) -> int | None:
        """Tokens in a sequence; None for a toy."""
        value = self.subject.get("context_length")
        return value if isinstance(value, int) else None

    @property
    def loading(self) -> dict[str, bool]:
        """What TransformerLens has to be asked for beyond a model without processing."""
        return dict(_FOLDED) if self.subject.get("processing") == "folded" else {}

    def provenance(self) -> dict[str, Any]:
        """Everything about the origin in one place, as JSON can hold it."""
        return {
            "version": vsae_search.__version__,
            "sweep": self.sweep,
            "uid": self.uid,
            "architecture": self.architecture,
            "params": dict(self.params),
            "seed": self.seed,
            "training_tokens": self.training_tokens,
            "folded": {"input_scale": self.scale, "decoder_norm": 1.0},
            "subject_digest": self.subject.get("digest"),
            "metrics": {key: value for key, value in sorted(self.metrics.items()) if math.isfinite(value)},
        }


def facts_of(sweep: SweepRecord, trial: TrialRecord) -> Facts:
    """Gather them from the records of a sweep and of one of its trials."""
    training = sweep.space.get("training", {})
    return Facts(
        sweep=sweep.name,
        uid=trial.uid,
        architecture=trial.architecture,
        params=trial.params,
        seed=trial.seed,
        scale=float(sweep.bank["scale"]),
        batch_size=int(training.get("batch_size", 0)),
        training_tokens=trial.rungs[-1].tokens if trial.rungs else 0,
        metrics=trial.metrics,
        subject=sweep.subject,
    )
