"""The searched hyper-parameters of an architecture as axes: every value has a place between 0 and 1."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsae_search.report.data import ArchitectureSummary, TrialRow

FINEST = 50
"""Cells into which an axis of numbers is cut."""
_LOG_SPAN = 50.0  # numbers whose range is not known and that span a larger ratio are shown on a logarithmic axis


@dataclass(frozen=True)
class SearchedAxis:
    """One hyper-parameter.

    Attributes:
        name: Its name.
        scale: ``log`` or ``linear`` for a range of numbers, ``choice`` for listed values.
        low: Lower end of a range.
        high: Upper end of a range.
        choices: Listed values; numbers by size.
        cells: Number of values that are told apart.
        ordered: Whether neighbouring cells are alike: everything but texts and truth values.
    """

    name: str
    scale: Literal["log", "linear", "choice"]
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()
    cells: int = FINEST
    ordered: bool = True

    def place(self, value: Any) -> float:
        """Where a value lies, from 0 to 1."""
        if self.scale == "choice":
            return [_key(one) for one in self.choices].index(_key(value)) / (len(self.choices) - 1)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Places with their labels: every choice while there are few, else both ends."""
        if self.scale != "choice":
            return [(0.0, number(self.low)), (1.0, number(self.high))]
        few = len(self.choices) <= 8
        shown = self.choices if few else (self.choices[0], self.choices[-1])
        return [(self.place(value), number(value)) for value in shown]


def searched_axes(entry: ArchitectureSummary, rows: Sequence[TrialRow]) -> tuple[SearchedAxis, ...]:
    """Hyper-parameters that differ between the trials of an architecture, in the order of the trials' records."""
    if not rows:
        return ()
    names = [name for name in rows[0].params if all(name in row.params for row in rows)]
    axes = [_axis(name, [row.params[name] for row in rows], entry.ranges.get(name)) for name in names]
    return tuple(axis for axis in axes if axis is not None)


def _axis(name: str, values: Sequence[Any], spelled: Any) -> SearchedAxis | None:
    distinct = list({_key(value): value for value in values}.values())
    if len(distinct) < 2:
        return None
    given: Mapping[str, Any] = spelled if isinstance(spelled, dict) else {}
    if "choice" in given or not all(map(_is_number, distinct)):
        return _choice(name, distinct, given.get("choice"))
    ends = [value for kind in ("log", "uniform", "int") for value in given.get(kind, ()) if _is_number(value)]
    low, high = float(min([*distinct, *ends])), float(max([*distinct, *ends]))
    log = low > 0 and ("log" in given or (not given and high / low > _LOG_SPAN))
    cells = min(round(high - low) + 1, FINEST) if "int" in given else FINEST
    return SearchedAxis(name, "log" if log else "linear", low, high, cells=cells)


def _choice(name: str, distinct: list[Any], listed: Any) -> SearchedAxis:
    known = [*(listed if isinstance(listed, list) else ()), *distinct]
    choices = list({_key(value): value for value in known}.values())
    numeric = all(map(_is_number, choices))
    choices.sort(key=None if numeric else _key)
    return SearchedAxis(name, "choice", choices=tuple(choices), cells=len(choices), ordered=numeric)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: Any) -> str:
    """Equal for equal values: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(float(value) if _is_number(value) else value, sort_keys=True, default=str)
