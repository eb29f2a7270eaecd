"""Activations that are sums of known unit directions: x = sum_i f_i g_i + noise.

The loss lives in feature space. A linear read-out fhat(x) = a + x R is fitted once, by least squares, on a fixed sample
of 100 000 rows, and the loss of one sample is (1 / M) sum_i I_i (f_i - fhat_i(x))^2, with the importances I. Splicing
replaces x by its reconstruction, and the read-out stays as it is: like the rest of a network, it was made for the
real activation.

Why this read-out: it is the best that anything linear can do with x (linear MMSE: R = Cov(x)^+ Cov(x, f)), so it is
defined for more features than dimensions, where the features cannot be recovered exactly and the untouched x already
has a loss; with noise; and for fewer features than dimensions, where it is exact without noise. No ridge is used:
directions of x without variance are dropped by the pseudo-inverse, so that an error of the reconstruction which lies
there costs nothing. Mean ablation costs exactly the variance of the features (on the sample of the fit), so that the
share of the loss recovered against the mean is the share of the linearly readable variance that survives. An average
over features, as for the trained toy model, keeps the two kinds comparable.

The extra loss of a reconstruction x + e is mean(sum_i I_i (e R)_i^2) / M minus twice a term in (f_i - fhat_i) (e R)_i
that vanishes for every e that is linear in x. It can be slightly negative for a reconstruction that is nonlinear in x
and resolves interference which a linear read-out cannot.

Shapes: N rows, D activation width, M features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.space import DirectionsSubject as DirectionsSpec
from vsae_search.subjects.base import Baseline, GroundTruth, Rows, Split, ablations
from vsae_search.subjects.features import Features, build_features
from vsae_search.subjects.registry import builds
from vsae_search.subjects.seeds import digest, stream
from vsae_search.subjects.store import load_or_make
from vsae_search.subjects.summary import SAMPLE_ROWS, achieved, fixed_sample

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_NO_VARIANCE = 1e-9  # of the largest eigenvalue: far above the rounding of float32 rows, far below any real direction
_REPULSION_STEPS = 300


@dataclass(frozen=True, eq=False)
class Directions:
    """Known directions with the distribution of their coefficients.

    Attributes:
        features: Distribution of the coefficients.
        directions_MD: Unit directions, float32.
        noise: Standard deviation of the noise on every coordinate.
        readout_DM: Linear read-out R, float64.
        intercept_M: Its intercept a, float64.
        fingerprint: Digest of all of these.
    """

    features: Features
    directions_MD: NDArray[np.float32]
    noise: float
    readout_DM: NDArray[np.float64]
    intercept_M: NDArray[np.float64]
    fingerprint: str

    loss_name = "extra feature-space error"
    loss_unit = "squared error per feature"

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return int(self.directions_MD.shape[1])

    @property
    def truth(self) -> GroundTruth:
        """The directions; every feature counts as represented."""
        probability_M = self.features.probability_M
        return GroundTruth(
            directions_MD=self.directions_MD,
            represented_M=np.ones(self.features.count, dtype=np.bool_),
            probability_M=probability_M,
            sets=self.features.groups,
            true_l0=float(probability_M.sum()),
        )

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Draw features and return their weighted sums of directions with them."""
        del shard_rows  # every shard has a random stream of its own
        generator = stream(self.fingerprint, split, index)
        features_NM = self.features.sample(generator, num_rows)
        return Rows(_activations(features_NM, self.directions_MD, self.noise, generator), features_NM)

    def splice(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the error of each sample's features, read out of ``xhat_ND``."""
        assert rows.features_NM is not None, "the rows of a toy subject carry their features"
        error_NM = rows.features_NM - (xhat_ND.astype(np.float64) @ self.readout_DM + self.intercept_M)
        return np.asarray(error_NM**2 @ (self.features.importance_M / self.features.count), dtype=np.float64)

    def baseline(self, rows: Rows) -> Baseline:
        """Return the losses of the rows untouched, zero-ablated and mean-ablated."""
        return ablations(self.splice, rows)

    def describe(self) -> dict[str, Any]:
        """Return the distribution as asked for and as achieved, and how far the directions are from orthogonal."""
        cosine_MM = self.directions_MD.astype(np.float64) @ self.directions_MD.T.astype(np.float64)
        off_diagonal = np.abs(cosine_MM[~np.eye(self.features.count, dtype=np.bool_)])
        rows = self.harvest(0, SAMPLE_ROWS // 10, "calibration")
        return {
            "kind": "directions",
            "d_in": self.d_in,
            "digest": self.fingerprint,
            "loss_name": self.loss_name,
            "loss_unit": self.loss_unit,
            "features": self.features.describe(),
            "achieved": achieved(self.features, self.fingerprint),
            "features_represented": self.features.count,
            "true_l0": self.truth.true_l0,
            "features_per_dimension": self.features.count / self.d_in,
            "largest_abs_cosine": float(off_diagonal.max(initial=0.0)),
            "mean_abs_cosine": float(off_diagonal.mean()) if off_diagonal.size else 0.0,
            "noise": self.noise,
            "clean_loss": float(self.splice(rows, rows.x_ND).mean()),
        }


def make_directions(kind: str, num_features: int, d_in: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw unit directions.

    Args:
        kind: ``"random"`` (uniform on the sphere), ``"repelled"`` (random, then pushed apart until the largest
            cosines are small) or ``"orthogonal"``.
        num_features: Number of directions M.
        d_in: Number of dimensions D.
        generator: Source of randomness.

    Returns:
        Unit rows [M, D].

    Raises:
        UserInputError: More orthogonal directions than dimensions.
    """
    start_MD = _unit_rows(generator.standard_normal((num_features, d_in)))
    if kind == "random" or (kind == "repelled" and d_in == 1):
        return start_MD
    if num_features <= d_in:  # pushing apart ends at orthogonal directions when they fit
        q_DM, r_MM = np.linalg.qr(start_MD.T)
        return np.ascontiguousarray((q_DM * np.sign(np.diag(r_MM))).T)
    if kind == "orthogonal":
        raise UserInputError(
            f"{num_features} orthogonal directions do not fit into {d_in} dimensions (at most d_in = {d_in})",
            "Raise subject.d_in, lower features.count, or use directions: repelled.",
        )
    return _repel(start_MD)


def _repel(start_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Push directions apart by descending on sum_{i != j} cos_ij^4.

    The fourth power makes the largest cosines matter most; the step of each direction is normalised and shrinks to
    0, so that no step size has to be tuned.
    """
    g_MD = start_MD
    for step in range(_REPULSION_STEPS):
        cosine_MM = g_MD @ g_MD.T
        np.fill_diagonal(cosine_MM, 0.0)
        pull_MD = cosine_MM**3 @ g_MD
        pull_MD -= (pull_MD * g_MD).sum(axis=1, keepdims=True) * g_MD
        largest = np.linalg.norm(pull_MD, axis=1).max()
        if largest < 1e-12:
            break
        g_MD = _unit_rows(g_MD - 0.2 * (1 - step / _REPULSION_STEPS) * pull_MD / largest)
    return g_MD


def _unit_rows(rows_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale every row to length 1."""
    return np.asarray(rows_MD / np.linalg.norm(rows_MD, axis=1, keepdims=True))


def _activations(
    features_NM: NDArray[np.float32], directions_MD: NDArray[np.float32], noise: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Add up the directions, and the noise."""
    x_ND = features_NM @ directions_MD
    if noise > 0:
        x_ND += np.float32(noise) * generator.standard_normal(x_ND.shape, dtype=np.float32)
    return x_ND


def fit_readout(
    features: Features, directions_MD: NDArray[np.float32], noise: float, fingerprint: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the linear least-squares read-out from activations to features on the fixed sample.

    Returns:
        R [D, M] and the intercept [M], float64.
    """
    d_in, count = directions_MD.shape[1], features.count
    joint = np.zeros((d_in + 1, d_in + count))  # moments of (x, 1) with (x, f)
    for index, features_NM in enumerate(fixed_sample(features, fingerprint, "read-out")):
        generator = stream(fingerprint, "read-out noise", index)
        x_ND = _activations(features_NM, directions_MD, noise, generator).astype(np.float64)
        left_N = np.concatenate([x_ND, np.ones((len(x_ND), 1))], axis=1)
        joint += left_N.T @ np.concatenate([x_ND, features_NM], axis=1)
    joint /= SAMPLE_ROWS
    mean_D, mean_M = joint[-1, :d_in], joint[-1, d_in:]
    covariance_DD = joint[:-1, :d_in] - np.outer(mean_D, mean_D)
    cross_DM = joint[:-1, d_in:] - np.outer(mean_D, mean_M)
    readout_DM = np.linalg.pinv(covariance_DD, rcond=_NO_VARIANCE, hermitian=True) @ cross_DM
    return readout_DM, mean_M - mean_D @ readout_DM


@builds(DirectionsSpec)
def build_directions(spec: DirectionsSpec, cache: Path) -> Directions:
    """Draw the directions and fit the read-out, or load both when they were made before.

    Raises:
        UserInputError: The features ask for something impossible, or the orthogonal directions do not fit.
        CorruptFile: The stored directions are damaged.
    """
    features = build_features(spec.features)
    choices = spec.model_dump(mode="json", include={"d_in", "directions", "noise", "seed"})
    identity = {"features": features.identity(), **choices}

    def make() -> tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]:
        generator = stream(digest(identity), "directions", 0)
        directions_MD = make_directions(spec.directions, features.count, spec.d_in, generator).astype(np.float32)
        readout_DM, intercept_M = fit_readout(features, directions_MD, spec.noise, digest(identity))
        return {"directions": directions_MD, "readout": readout_DM, "intercept": intercept_M}, choices

    arrays, _ = load_or_make(cache, "directions", identity, make)
    fingerprint = digest([identity, {name: arrays[name].tobytes().hex() for name in sorted(arrays)}])
    return Directions(features, arrays["directions"], spec.noise, arrays["readout"], arrays["intercept"], fingerprint)
