"""What every subject offers: rows to explain, losses under ablation and splicing, and, when known, the truth.

Shapes: N rows, D activation width (``d_in``), M true features, S sequences (of a toy subject: one row each), T tokens
of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

Split = Literal["train", "calibration", "evaluation", "confirm"]
GroupKind = Literal["correlated", "anticorrelated", "hierarchical"]


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of activations, with the features that produced them when they are known.

    Attributes:
        x_ND: Activations, float32, in the subject's own units (not rescaled).
        features_NM: Feature values, float32, 0 where a feature is absent and in (0, 1] where it is present; ``None``
            for a subject without known features.
        tokens_ST: The sequences that the rows were taken from, int32; ``None`` where no loss is computed from them, and
            for subjects that read no text.
        kept_ST: Positions that the rows belong to, in order of sequence and position; ``None`` with ``tokens_ST``.
    """

    x_ND: NDArray[np.float32]
    features_NM: NDArray[np.float32] | None = None
    tokens_ST: NDArray[np.int32] | None = None
    kept_ST: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Baseline:
    """Per-sequence losses with the activation left alone, set to zero and set to the mean of the rows.

    Attributes:
        clean_S: Loss of each sequence, untouched, float64.
        zero_S: Loss of each sequence when every activation is replaced by 0, float64.
        mean_S: Loss of each sequence when every activation is replaced by the mean of the rows, float64.
    """

    clean_S: NDArray[np.float64]
    zero_S: NDArray[np.float64]
    mean_S: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spliced:
    """What a splice does to each sequence.

    Attributes:
        loss_S: Loss of each sequence, float64.
        kl_S: Mean KL(untouched || spliced) of its predictions, in nats, float64; ``None`` where it was not computed.
    """

    loss_S: NDArray[np.float64]
    kl_S: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class FeatureGroup:
    """Features whose presence was drawn together; in a hierarchical group the first member is the parent."""

    kind: GroupKind
    members: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The features behind the activations of a toy subject.

    Attributes:
        directions_MD: Unit direction of each feature in activation space, float32; a row of zeros for a feature that
            leaves no trace at all in the activation.
        represented_M: Whether the feature is really present in the activation. Only these count in recovery metrics.
        probability_M: Probability that the feature is present (the closed form, not an estimate), float64.
        sets: Features that were drawn together.
        true_l0: Mean number of *represented* features that are present in a row: the sum of their probabilities. It
            is the L0 of a dictionary that holds exactly the represented features.
    """

    directions_MD: NDArray[np.float32]
    represented_M: NDArray[np.bool_]
    probability_M: NDArray[np.float64]
    sets: tuple[FeatureGroup, ...]
    true_l0: float


class Subject(Protocol):
    """A source of activations; small and picklable, so that any worker can hold one.

    The rows of the four splits come from independent random streams (for a text subject: from different documents),
    so that nothing is ever evaluated on rows that it was trained on.
    """

    @property
    def d_in(self) -> int:
        """Width of the activation that is explained."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the rows and the losses."""
        ...

    @property
    def loss_name(self) -> str:
        """Name, for tables and axes, of the extra loss caused by a splice."""
        ...

    @property
    def loss_unit(self) -> str:
        """Unit of that loss."""
        ...

    @property
    def truth(self) -> GroundTruth | None:
        """The features behind the activations, or ``None`` when they are unknown."""
        ...

    def harvest(self, index: int, num_rows: int, split: Split = "train", *, shard_rows: int | None = None) -> Rows:
        """Return shard ``index`` of a split: a function of the fingerprint and the arguments, and nothing else.

        Args:
            index: Number of the shard, from 0.
            num_rows: Rows in it.
            split: Which of the disjoint sets of rows.
            shard_rows: Rows in each of the shards before it; the same as ``num_rows`` unless the shard is a smaller
                last one. Shards with the same ``shard_rows`` do not overlap.
        """
        ...

    def baseline(self, rows: Rows) -> Baseline:
        """Return the losses of the rows untouched, zero-ablated and mean-ablated."""
        ...

    def splice(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the loss of every sequence when ``xhat_ND`` replaces ``rows.x_ND``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is worth recording about the subject, as values that JSON can hold."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """A subject that takes its rows from a text with a model: there may be too little text, and a GPU helps."""

    @property
    def wants_gpu(self) -> bool:
        """Whether rows are harvested on a GPU where there is one."""
        ...

    def prepare(self, num_rows: Mapping[Split, int], shard_rows: int) -> None:
        """Make sure that there is text for so many rows of each split, in training shards of ``shard_rows``."""
        ...


@runtime_checkable
class ComparesPredictions(Protocol):
    """A subject that predicts, so that a splice can be judged by how far its predictions move."""

    def splice_with_kl(self, rows: Rows, xhat_ND: NDArray[np.float32]) -> Spliced:
        """Return the loss of every sequence, as ``splice`` does, and the KL of its predictions."""
        ...


def ablations(splice: Callable[[Rows, NDArray[np.float32]], NDArray[np.float64]], rows: Rows) -> Baseline:
    """Return the three reference losses of rows for a subject whose sequences are single rows.

    Args:
        splice: The subject's own ``splice``, so that a perfect reconstruction scores exactly the clean loss.
        rows: The rows; mean ablation uses their mean.
    """
    mean_D = rows.x_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Baseline(
        clean_S=splice(rows, rows.x_ND),
        zero_S=splice(rows, np.zeros_like(rows.x_ND)),
        mean_S=splice(rows, np.tile(mean_D, (len(rows.x_ND), 1))),
    )
