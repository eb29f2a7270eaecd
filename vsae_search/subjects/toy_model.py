"""The trained toy model of superposition as a subject: its hidden activations are what is explained.

Loss of one sample: (1 / M) sum_i I_i (x_i - x'_i)^2, with x' = ReLU(W^T h + b) and the importances I, so that its mean
is the loss with which the toy model was trained. Splicing replaces h; the extra loss plays the role that the extra
cross-entropy plays for a language model.

Shapes: N rows, D hidden dimensions (``d_in``), M features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vsae_search.space import ToyModelSubject as ToyModelSpec
from vsae_search.subjects.base import Baseline, GroundTruth, Rows, Split, ablations
from vsae_search.subjects.features import Features, build_features
from vsae_search.subjects.registry import builds
from vsae_search.subjects.seeds import digest, stream
from vsae_search.subjects.store import load_or_make
from vsae_search.subjects.summary import SAMPLE_ROWS, achieved, fixed_sample
from vsae_search.subjects.superposition import dimensionality, features_per_dimension

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

REPRESENTED_NORM = 0.5


@dataclass(frozen=True, eq=False)
class ToyModel:
    """A frozen toy model with the distribution of its inputs.

    Attributes:
        features: Distribution of the inputs.
        model: ``"basic"`` for h = W x, ``"neuron"`` for h = ReLU(W x).
        W_DM: Embedding, float32.
        b_M: Bias of the read-out, float32.
        fingerprint: Digest of the weights and of the distribution.
        loss_curve: Training loss at evenly spaced steps.
    """

    features: Features
    model: Literal["basic", "neuron"]
    W_DM: NDArray[np.float32]
    b_M: NDArray[np.float32]
    fingerprint: str
    loss_curve: tuple[float, ...] = ()

    loss_name = "extra toy-model loss"
    loss_unit = "squared error per feature"

    @property
    def d_in(self) -> int:
        """Width of the hidden layer."""
        return len(self.W_DM)

    @property
    def truth(self) -> GroundTruth:
        """The features as they appear in the hidden layer.

        The trace of feature i is the hidden activation when it alone is on with value 1: W_i in the basic model, and
        ReLU(W_i) in the neuron model, whose hidden layer cannot point anywhere else. Its direction is the ground
        truth, and the feature counts as represented when the trace is longer than 0.5.
        """
        trace_MD = self._hidden(np.eye(self.features.count, dtype=np.float32))
        norm_M1 = np.linalg.norm(trace_MD, axis=1, keepdims=True)
        represented_M = norm_M1[:, 0] > REPRESENTED_NORM
        return GroundTruth(
            directions_MD=np.divide(trace_MD, norm_M1, out=np.zeros_like(trace_MD), where=norm_M1 > 0),
            represented_M=represented_M,
            probability_M=self.features.probability_M,
            sets=self.features.groups,
            true_l0=float(self.features.probability_M[represented_M].sum()),
        )

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Draw inputs and return the hidden activations with them."""
        del shard_rows  # every shard has a random stream of its own
        features_NM = self.features.sample(stream(self.fingerprint, split, index), num_rows)
        return Rows(self._hidden(features_NM), features_NM)

    def splice(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the loss of each sample when ``xhat_ND`` replaces its hidden activation."""
        assert rows.features_NM is not None, "the rows of a toy model carry their features"
        error_NM = rows.features_NM.astype(np.float64) - self._output(xhat_ND.astype(np.float32, copy=False))
        return np.asarray(error_NM**2 @ (self.features.importance_M / self.features.count), dtype=np.float64)

    def baseline(self, rows: Rows) -> Baseline:
        """Return the losses of the rows untouched, zero-ablated and mean-ablated."""
        return ablations(self.splice, rows)

    def describe(self) -> dict[str, Any]:
        """Return the distribution as asked for and as achieved, and how the toy model represents it."""
        truth, norm_M = self.truth, np.linalg.norm(self.W_DM, axis=0)
        return {
            "kind": "toy_model",
            "model": self.model,
            "d_in": self.d_in,
            "digest": self.fingerprint,
            "loss_name": self.loss_name,
            "loss_unit": self.loss_unit,
            "features": self.features.describe(),
            "achieved": achieved(self.features, self.fingerprint),
            **self.quality(),
            "features_represented": int(truth.represented_M.sum()),
            "true_l0": truth.true_l0,
            "features_per_dimension": features_per_dimension(self.W_DM),
            "feature_norm": norm_M.astype(np.float64).round(6).tolist(),
            "dimensionality": dimensionality(self.W_DM).round(6).tolist(),
            "training_loss": list(self.loss_curve),
        }

    def quality(self) -> dict[str, float]:
        """Measure the loss on a fixed sample, and the share of the variance of the inputs that it leaves unexplained.

        Both weigh the features by their importance: the absolute loss falls with the probability of the features
        whatever the model does, the share (``toy_fvu``) does not.
        """
        error_M, square_M, total_M = np.zeros((3, self.features.count))
        for features_NM in fixed_sample(self.features, self.fingerprint, "summary"):
            x_NM = features_NM.astype(np.float64)
            error_M += ((x_NM - self._output(self._hidden(features_NM))) ** 2).sum(axis=0)
            square_M += (x_NM**2).sum(axis=0)
            total_M += x_NM.sum(axis=0)
        importance_M = self.features.importance_M
        variance = importance_M @ (square_M - total_M**2 / SAMPLE_ROWS)
        error = float(importance_M @ error_M)
        return {"toy_loss": error / (SAMPLE_ROWS * self.features.count), "toy_fvu": error / float(variance)}

    def _output(self, h_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the second half of the toy model."""
        return np.asarray(np.maximum(h_ND @ self.W_DM + self.b_M, 0), dtype=np.float32)

    def _hidden(self, features_NM: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the first half of the toy model."""
        h_ND = features_NM @ self.W_DM.T
        return np.maximum(h_ND, 0, out=h_ND) if self.model == "neuron" else h_ND


@builds(ToyModelSpec)
def build_toy_model(spec: ToyModelSpec, cache: Path) -> ToyModel:
    """Train the toy model, or load it when the same one was trained before.

    Raises:
        UserInputError: The features ask for something impossible.
        CorruptFile: The stored model is damaged.
        Diverged: Training did not stay finite.
    """
    features = build_features(spec.features)
    training = spec.model_dump(mode="json", include={"d_hidden", "model", "steps", "batch_size", "lr", "seed"})
    identity = {"features": features.identity(), **training}

    def train() -> tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]:
        from vsae_search.subjects.toy_training import train_toy_model  # torch is needed here only

        trained = train_toy_model(spec, features, digest(identity))
        return {"W": trained.W_DM, "b": trained.b_M}, {"loss_curve": trained.loss_curve, **training}

    arrays, facts = load_or_make(cache, "toy_model", identity, train)
    fingerprint = digest([identity, {name: arrays[name].tobytes().hex() for name in ("W", "b")}])
    return ToyModel(features, spec.model, arrays["W"], arrays["b"], fingerprint, tuple(facts["loss_curve"]))
