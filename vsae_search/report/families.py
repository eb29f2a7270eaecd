"""Families of architectures, so that a report with many of them stays readable: one panel per family."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_IN_ONE = 6
"""Architectures that one panel shows before it is cut into families."""

_FAMILIES = {
    "penalties and thresholds": ("relu", "april", "p_anneal", "gated", "jumprelu"),
    "fixed number of latents": ("topk", "batch_topk", "matryoshka", "topk_ridge"),
    "controls": ("pca", "random_dictionary"),
}
_VARIATIONAL, _OTHERS = "variational", "others"


def family(name: str) -> str:
    """The family of an architecture, by its name without the sweep in front of it."""
    own = name.rpartition("/")[2]
    if own.startswith("vsae"):
        return _VARIATIONAL
    return next((title for title, members in _FAMILIES.items() if own in members), _OTHERS)


def families(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names by family, in a fixed order of families; a single group without a title when they fit in one panel."""
    names = tuple(names)
    if len(names) <= MOST_IN_ONE:
        return {"": names}
    order = [*list(_FAMILIES)[:2], _VARIATIONAL, _OTHERS, "controls"]
    grouped = {title: tuple(name for name in names if family(name) == title) for title in order}
    return {title: members for title, members in grouped.items() if members}
