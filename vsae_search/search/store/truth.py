"""The true features of a toy subject, kept in the sweep directory so that the report can show them.

One safetensors file: ``directions`` [M, D], ``represented`` [M] and, where the subject embeds its features with a
matrix, ``W`` [D, M]; the sets of dependent features are JSON in its header. Nothing is written for a subject without
known features.

Shapes: M features, D activation width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vsae_search.atomic import write_bytes
from vsae_search.errors import CorruptFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vsae_search.subjects import Subject

TRUTH_FILE = "truth.safetensors"
_HINT = "copy it from a backup, or delete it: the report then says what it cannot show"


@runtime_checkable
class Embeds(Protocol):
    """A subject that embeds its features with a matrix."""

    @property
    def W_DM(self) -> NDArray[np.float32]:
        """The embedding, one column per feature."""
        ...


@dataclass(frozen=True, eq=False)
class StoredTruth:
    """What is kept of the true features.

    Attributes:
        directions_MD: Unit direction of each feature in activation space.
        represented_M: Whether the activation represents the feature; only such features count in recovery.
        sets: Kind and members of each set of dependent features.
        W_DM: Embedding of the toy model; None where the directions are all there is.
    """

    directions_MD: NDArray[np.float64]
    represented_M: NDArray[np.bool_]
    sets: tuple[tuple[str, tuple[int, ...]], ...]
    W_DM: NDArray[np.float64] | None

    @property
    def columns_DM(self) -> NDArray[np.float64]:
        """The features as columns: the embedding, or else the unit directions."""
        return self.directions_MD.T if self.W_DM is None else self.W_DM

    @property
    def traces_MD(self) -> NDArray[np.float64]:
        """The activation when one feature alone is on with value 1: a column of W, or of ReLU(W), or a direction."""
        if self.W_DM is None:
            return self.directions_MD
        length_M = (self.directions_MD * self.W_DM.T).sum(axis=1)  # of ReLU(w): ReLU(w) . w / |ReLU(w)| is its norm
        return np.asarray(self.directions_MD * length_M[:, None])


def write_truth(directory: Path, subject: Subject) -> None:
    """Write the true features of a subject; nothing when they are unknown or already there."""
    truth, path = subject.truth, directory / TRUTH_FILE
    if truth is None or path.is_file():
        return
    arrays: dict[str, NDArray[Any]] = {"directions": truth.directions_MD, "represented": truth.represented_M}
    if isinstance(subject, Embeds):
        arrays["W"] = subject.W_DM
    sets = [{"kind": group.kind, "members": list(group.members)} for group in truth.sets]
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, save(tensors, metadata={"sets": json.dumps(sets)}), mode=None)


def read_truth(directory: Path) -> StoredTruth | None:
    """Read the true features of a sweep; None when there are none.

    Raises:
        CorruptFile: The file is damaged.
    """
    path = directory / TRUTH_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            sets = json.loads((file.metadata() or {})["sets"])
        embedding = arrays.get("W")
        found = StoredTruth(
            directions_MD=arrays["directions"].astype(np.float64),
            represented_M=arrays["represented"].astype(np.bool_),
            sets=tuple((str(entry["kind"]), tuple(map(int, entry["members"]))) for entry in sets),
            W_DM=None if embedding is None else embedding.astype(np.float64),
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is damaged: {error}", _HINT) from error
    if not _fits(found):
        raise CorruptFile(f"{path} is damaged: its arrays do not fit each other", _HINT)
    return found


def _fits(truth: StoredTruth) -> bool:
    """Whether shapes and members agree and every number is finite."""
    if truth.directions_MD.ndim != 2 or not np.isfinite(truth.directions_MD).all():
        return False
    count, width = truth.directions_MD.shape
    members = [member for _, group in truth.sets for member in group]
    embedding = truth.W_DM
    return (
        truth.represented_M.shape == (count,)
        and all(0 <= member < count for member in members)
        and (embedding is None or (embedding.shape == (width, count) and bool(np.isfinite(embedding).all())))
    )
