"""What a metric is given and what it must offer.

Shapes: B rows of one chunk, N evaluation rows, D activation width, F latents, M represented features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vsae_search.evaluation.spliced import Reconstruction

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from vsae_search.evaluation.summary import Summary
    from vsae_search.evaluation.truth import Represented
    from vsae_search.subjects import Baseline, Rows, Subject

Direction = Literal["lower", "higher", "none"]
Values = dict[str, "float | NDArray[Any]"]


@dataclass(frozen=True)
class MetricInfo:
    """What one number means.

    Attributes:
        key: Name under which the number is recorded.
        unit: Unit; ``"1"`` for a pure number, ``"array"`` for an array that goes beside the record.
        direction: Whether lower or higher is better; ``"none"`` where neither is.
        definition: One sentence with the formula.
    """

    key: str
    unit: str
    direction: Direction
    definition: str


def with_null(*infos: MetricInfo) -> tuple[MetricInfo, ...]:
    """Return the given numbers and, after them, the value of each for random dictionaries (``null_`` + key)."""
    nulls = (
        MetricInfo(
            f"null_{info.key}",
            info.unit,
            "none",
            f"Mean of {info.key} over random dictionaries of as many alive latents.",
        )
        for info in infos
    )
    return (*infos, *nulls)


@dataclass(frozen=True, eq=False)
class Context:
    """Everything that is known before the first chunk.

    Attributes:
        rows: All evaluation rows, in the subject's own units.
        scale: Factor by which rows are multiplied before they are encoded.
        subject: What is being explained; needed for the splice.
        baseline: Its clean and ablated losses on ``rows``.
        d_sae: Number of latents, F.
        truth: The represented features, or ``None`` for a subject without known features.
    """

    rows: Rows
    scale: float
    subject: Subject
    baseline: Baseline
    d_sae: int
    truth: Represented | None

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Where metrics that splice put the chunks, so that the subject is run once for all of them."""
        return Reconstruction(self.rows, self.scale, self.subject)

    @property
    def num_rows(self) -> int:
        """Number of evaluation rows, N."""
        return int(self.rows.x_ND.shape[0])


@dataclass(frozen=True, eq=False)
class Batch:
    """One chunk of evaluation rows after encoding and decoding.

    Attributes:
        start: Index of the first row of the chunk among all evaluation rows.
        x_BD: Scaled activations, as the autoencoder sees them.
        f_BF: The code. There is only this one: L0 is counted on it and the splice decodes it.
        xhat_BD: Its reconstruction, scaled.
        present_BM: 1.0 where a represented feature is present, else 0.0; ``None`` where that is unknown.
    """

    start: int
    x_BD: torch.Tensor
    f_BF: torch.Tensor
    xhat_BD: torch.Tensor
    present_BM: torch.Tensor | None

    @cached_property
    def fired_BF(self) -> torch.Tensor:
        """Whether each latent fires: a code that is not zero (for a non-negative code: above zero)."""
        return self.f_BF != 0

    @cached_property
    def strength_BF(self) -> torch.Tensor:
        """Absolute code, float32; sums over it are to be taken in float64."""
        return self.f_BF.abs().float()


class Metric(ABC):
    """One family of numbers, computed in one pass over the evaluation rows.

    A new metric is one new file in ``vsae_search/evaluation/metrics/`` with a subclass of this in it; nothing else has
    to be touched, except for its rows in ``docs/metrics.md``. An instance serves one evaluation.

    Attributes:
        infos: Every number and array that ``result`` may return. It may return fewer: a number that is undefined for
            this autoencoder or this subject is left out, never recorded as NaN.
    """

    infos: ClassVar[tuple[MetricInfo, ...]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether this metric has a meaning here; most have for every subject."""
        del context
        return True

    def update(self, batch: Batch) -> None:
        """Take in one chunk; sums are to be kept in float64."""
        del batch

    @abstractmethod
    def result(self, summary: Summary) -> Mapping[str, float | NDArray[np.generic]]:
        """Return numbers (``float``) and arrays, by key."""
