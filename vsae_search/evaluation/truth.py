"""The part of the ground truth that recovery can be measured against: the features that the activation represents.

Shapes: M represented features, D activation width, S true sets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.subjects import GroundTruth

_MIN_NORM = 1e-6  # a feature without a direction cannot be found, whatever the subject says about it


@dataclass(frozen=True, eq=False)
class Represented:
    """The represented features of a subject, renumbered 0..M-1.

    Two of them are equal when their content is, so that results for random dictionaries can be cached by it.

    Attributes:
        index_M: Number of each feature in the subject.
        directions_MD: Unit directions, float64.
        groups: ``(kind, members)`` of the true sets with at least two represented members.
    """

    index_M: NDArray[np.int64]
    directions_MD: NDArray[np.float64]
    groups: tuple[tuple[str, tuple[int, ...]], ...]

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Represented) and self._content == other._content

    @cached_property
    def _content(self) -> tuple[bytes, tuple[tuple[str, tuple[int, ...]], ...]]:
        digest = hashlib.sha256(self.index_M.tobytes() + self.directions_MD.tobytes()).digest()
        return digest, self.groups

    @property
    def size(self) -> int:
        """Number of represented features, M."""
        return len(self.index_M)

    @cached_property
    def set_M(self) -> NDArray[np.int64]:
        """Number of the true set of each feature; a feature outside the groups is a set of its own."""
        set_M = np.full(self.size, -1, dtype=np.int64)
        for number, (_, members) in enumerate(self.groups):
            set_M[list(members)] = number
        alone = set_M < 0
        set_M[alone] = len(self.groups) + np.arange(np.count_nonzero(alone))
        return set_M

    @property
    def num_sets(self) -> int:
        """Number of true sets, S, features outside the groups included."""
        return int(self.set_M.max()) + 1

    def pairs(self, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all pairs ``[P, 2]`` of features that share a set of this kind, and the group ``[P]`` of each."""
        found = [
            (*pair, number)
            for number, (group_kind, members) in enumerate(self.groups)
            if group_kind == kind
            for pair in combinations(members, 2)
        ]
        table = np.array(found, dtype=np.int64).reshape(-1, 3)
        return table[:, :2], table[:, 2]


def represented(truth: GroundTruth | None) -> Represented | None:
    """Return the represented part of a ground truth; ``None`` when there is none."""
    if truth is None:
        return None
    directions_MD = np.asarray(truth.directions_MD, dtype=np.float64)
    norm_M = np.linalg.norm(directions_MD, axis=1)
    keep_M = np.asarray(truth.represented_M, dtype=bool) & (norm_M > _MIN_NORM)
    if not keep_M.any():
        return None
    new_number = {int(old): new for new, old in enumerate(np.flatnonzero(keep_M))}
    members = [(group.kind, tuple(new_number[m] for m in group.members if m in new_number)) for group in truth.sets]
    return Represented(
        index_M=np.flatnonzero(keep_M).astype(np.int64),
        directions_MD=directions_MD[keep_M] / norm_M[keep_M, None],
        groups=tuple((kind, found) for kind, found in members if len(found) >= 2),
    )
