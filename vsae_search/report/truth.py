"""The true features of the subject as cards show them: in groups by how they depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.search.store.truth import read_truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.report.data import ReportData
    from vsae_search.report.matrix import Group
    from vsae_search.report.source import Source
    from vsae_search.search.store.truth import StoredTruth

_KINDS = ("correlated", "anticorrelated", "hierarchical")
INDEPENDENT = "independent"


def stored_truth(source: Source) -> StoredTruth | None:
    """The true features that the sweep kept; of a comparison, whose sweeps share their subject, those of any of them.

    Raises:
        CorruptFile: The file is damaged.
    """
    found = (read_truth(part.directory) for part in source.parts or (source,))
    return next((truth for truth in found if truth is not None), None)


def why_no_truth(data: ReportData) -> str:
    """Why there are no true features to show, as a sentence."""
    if data.sweep.true_l0 is None:
        return "Only a toy subject has known true features; this subject's are not known."
    return "The sweep directory does not hold the true features (truth.safetensors), so they cannot be shown."


def grouped(truth: StoredTruth, features: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[Group, ...]]:
    """Features in the order in which they are shown, and their groups: by kind of set, then set by set.

    Args:
        truth: The true features.
        features: Numbers of the features to show.

    Returns:
        Their numbers in order, and per kind its name with first place and place after the last.
    """
    wanted = set(features.tolist())
    order: list[int] = []
    groups: list[Group] = []
    for kind in dict.fromkeys([*_KINDS, *(kind for kind, _ in truth.sets)]):
        members = [member for own, group in truth.sets if own == kind for member in group if member in wanted]
        _append(order, groups, kind, members)
    _append(order, groups, INDEPENDENT, sorted(wanted.difference(order)))
    return np.array(order, dtype=np.int64), tuple(groups)


def _append(order: list[int], groups: list[Group], name: str, members: Sequence[int]) -> None:
    if members:
        groups.append((name, len(order), len(order) + len(members)))
        order.extend(members)
