"""One trial of an experiment: train a toy model and measure it. Needs no Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import Diverged
from vsae_search.subjects.features import build_features
from vsae_search.subjects.seeds import digest
from vsae_search.subjects.summary import achieved
from vsae_search.subjects.toy_geometry import firing_shares, look_for, superposition_metrics
from vsae_search.subjects.toy_model import ToyModel
from vsae_search.subjects.toy_training import fit_toy_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.search.records import TrialState
    from vsae_search.space import ToySetting
    from vsae_search.subjects.features import Features
    from vsae_search.subjects.toy_training import TrainedToyModel


@dataclass(frozen=True, eq=False)
class ToyOutcome:
    """What comes back from a worker.

    Attributes:
        state: ``completed``, or ``diverged``.
        metrics: Numbers of the record.
        arrays: What is stored in ``TOY_FILE``.
        train_s: Seconds of training.
        evaluate_s: Seconds of measuring.
        error: Why it diverged.
    """

    state: TrialState
    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    train_s: float = 0.0
    evaluate_s: float = 0.0
    error: str | None = None


def run_toy_trial(setting: ToySetting, seed: int) -> ToyOutcome:
    """Train and measure one toy model; the same arguments on the same machine give the same numbers.

    Args:
        setting: What is trained.
        seed: Seed of its initial weights and its rows.
    """
    features = build_features(setting.features)
    identity = setting.model_dump(mode="json", include={"d_hidden", "model", "recipe"})
    fingerprint = digest({"features": features.identity(), **identity, "seed": seed})
    begun = time.monotonic()
    try:
        trained = fit_toy_model(
            setting.recipe,
            features,
            fingerprint,
            d_hidden=setting.d_hidden,
            neuron=setting.model == "neuron",
            snapshots=setting.snapshots,
        )
    except Diverged as error:
        return ToyOutcome("diverged", train_s=time.monotonic() - begun, error=str(error))
    train_s = time.monotonic() - begun
    metrics = _metrics(setting, trained, features, fingerprint)
    arrays = _arrays(setting, trained, features, fingerprint)
    return ToyOutcome("completed", metrics, arrays, train_s, time.monotonic() - begun - train_s)


def _metrics(setting: ToySetting, trained: TrainedToyModel, features: Features, fingerprint: str) -> dict[str, float]:
    model = ToyModel(features, setting.model, trained.W_DM, trained.b_M, fingerprint)
    metrics = superposition_metrics(model)
    metrics["last_row_loss"] = trained.last_loss * features.count
    if setting.expect is not None:
        measured, found = look_for(setting.expect, trained.W_DM, features)
        metrics |= {"geometry_measured": measured, "geometry_found": float(found)}
    return metrics


def _arrays(
    setting: ToySetting, trained: TrainedToyModel, features: Features, fingerprint: str
) -> dict[str, NDArray[Any]]:
    """Weights and training loss; where snapshots are kept, also these, the firing of neurons, and what was drawn."""
    arrays: dict[str, NDArray[Any]] = {
        "W": trained.W_DM,
        "b": trained.b_M,
        "loss_curve": np.array(trained.loss_curve, dtype=np.float64),
    }
    if setting.snapshots:
        arrays["snapshot_steps"] = np.array([one.step for one in trained.snapshots], dtype=np.int64)
        arrays["snapshot_W"] = np.stack([one.W_DM for one in trained.snapshots])
        phi = achieved(features, fingerprint)["phi"]
        if phi is not None:
            arrays["phi"] = np.array(phi, dtype=np.float64)  # None, of a constant feature, becomes not a number
        if setting.model == "neuron":
            arrays["firing"] = firing_shares(trained.snapshots, features, fingerprint)
    return arrays
