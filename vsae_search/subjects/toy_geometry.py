"""What a trained toy model looks like: how much it represents, and whether its features form a known figure.

Shapes: T snapshots, N rows, D hidden dimensions, M features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vsae_search.subjects.seeds import stream
from vsae_search.subjects.superposition import dimensionality, features_per_dimension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.space.experiments import Geometry
    from vsae_search.subjects.features import Features
    from vsae_search.subjects.toy_model import ToyModel
    from vsae_search.subjects.toy_training import Snapshot

REPRESENTED_SQUARE = 0.5
"""A feature counts as represented when ||W_i||^2 is larger."""
ANTIPODAL_COSINE = -0.95
ORTHOGONAL_COSINE = 0.1
POLYGON_DEGREES = 3.0
ALIGNED_SHARE = 0.9
_FIRING_ROWS = 4096


def superposition_metrics(model: ToyModel) -> dict[str, float]:
    """Measure a toy model on 100 000 fixed rows.

    Returns:
        ``toy_loss``: weighted squared error of a row, averaged over the features; ``row_loss``: the same, summed over
        them; ``toy_fvu``: share of the weighted variance of the inputs that is left unexplained;
        ``features_represented``: features with ||W_i||^2 > 1/2; ``features_per_dimension``: ||W||_F^2 / D;
        ``mean_dimensionality``: mean D_i of the represented features, not a number when there are none.
    """
    quality = model.quality()
    represented_M = represented(model.W_DM)
    share_M = dimensionality(model.W_DM)[represented_M]
    return {
        **quality,
        "row_loss": quality["toy_loss"] * model.features.count,
        "features_represented": float(represented_M.sum()),
        "features_per_dimension": features_per_dimension(model.W_DM),
        "mean_dimensionality": float(share_M.mean()) if share_M.size else float("nan"),
    }


def represented(W_DM: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which features have ||W_i||^2 > 1/2 [M]."""
    return np.asarray((W_DM.astype(np.float64) ** 2).sum(axis=0) > REPRESENTED_SQUARE)


def cosines(W_DM: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosines between the directions of the features [M, M]; 0 for a feature without weight."""
    W_DM = W_DM.astype(np.float64)
    norm_M = np.linalg.norm(W_DM, axis=0)
    unit_DM = np.divide(W_DM, norm_M, out=np.zeros_like(W_DM), where=norm_M > 0)
    return np.asarray(unit_DM.T @ unit_DM)


class Figure(NamedTuple):
    """How close a toy model comes to a known figure.

    Attributes:
        measured: Of pairs the cosine that is farthest from what is expected, of a polygon the largest deviation of an
            angle between neighbours in degrees, of a privileged basis the smallest share of a feature's ||W_i||^2 on
            a single axis.
        found: Whether it is within the limit, with every feature of the figure represented.
    """

    measured: float
    found: bool


def look_for(figure: Geometry, W_DM: NDArray[np.floating], features: Features) -> Figure:
    """Look for a known figure among the directions of the features.

    Reference: Elhage et al., "Toy Models of Superposition", 2022, sections "The Geometry of Superposition" and
    "Superposition in a Privileged Basis".

    Args:
        figure: What is looked for.
        W_DM: Embedding.
        features: Its features; pairs are their sets of two.
    """
    is_represented_M = represented(W_DM)
    if figure == "polygon":
        deviation = polygon_deviation(W_DM)
        return Figure(deviation, bool(is_represented_M.all() and deviation <= POLYGON_DEGREES))
    if figure == "privileged_basis":
        share = float(axis_shares(W_DM)[is_represented_M].min(initial=1.0))
        return Figure(share, bool(is_represented_M.any() and share >= ALIGNED_SHARE))
    cosine_MM = cosines(W_DM)
    pairs = [group.members for group in features.groups if len(group.members) == 2]
    values = [cosine_MM[i, j] for i, j in pairs]
    complete = all(is_represented_M[list(pair)].all() for pair in pairs)
    if figure == "antipodal_pairs":
        worst = max(values)
        return Figure(float(worst), bool(complete and worst < ANTIPODAL_COSINE))
    worst = max(values, key=abs)
    return Figure(float(worst), bool(complete and abs(worst) <= ORTHOGONAL_COSINE))


def polygon_deviation(W_DM: NDArray[np.floating]) -> float:
    """Return by how many degrees the angle between two neighbours is off that of a regular polygon, at the worst."""
    angle_M = np.sort(np.degrees(np.arctan2(W_DM[1], W_DM[0]).astype(np.float64)))
    gap_M = np.diff(np.append(angle_M, angle_M[0] + 360))
    return float(np.abs(gap_M - 360 / len(gap_M)).max())


def axis_shares(W_DM: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest share of each feature's ||W_i||^2 on one axis [M]: 1 for a feature along an axis."""
    square_DM = W_DM.astype(np.float64) ** 2
    total_M = square_DM.sum(axis=0)
    return np.asarray(np.divide(square_DM.max(axis=0), total_M, out=np.zeros_like(total_M), where=total_M > 0))


def firing_shares(snapshots: Sequence[Snapshot], features: Features, fingerprint: str) -> NDArray[np.float64]:
    """Return how often each hidden neuron fires during the training [T, D].

    Args:
        snapshots: The weights during the training of a model with a ReLU on its hidden layer.
        features: What the rows are drawn from; rows without any feature are left out, because nothing fires on them.
        fingerprint: Seed of the 4096 rows.
    """
    features_NM = features.sample(stream(fingerprint, "firing", 0), _FIRING_ROWS)
    features_NM = features_NM[features_NM.any(axis=1)]
    shares = [((features_NM @ one.W_DM.T) > 0).mean(axis=0) for one in snapshots]
    return np.array(shares, dtype=np.float64)
