"""Configurations that are run first: single points of a search space, checked against its ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from vsae_search.space.catalog import check_range, hyper_parameters
from vsae_search.space.ranges import ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange, parse_range
from vsae_search.space.sections import ARCHITECTURE
from vsae_search.space.wording import unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from vsae_search.space.catalog import Catalog, Finding
    from vsae_search.space.model import SearchSpace
    from vsae_search.space.ranges import AnyRange
    from vsae_search.space.strict import Loc


def misfit(ranges: Mapping[str, AnyRange], name: str, value: Any) -> str | None:
    """Why a search space cannot run a value of a hyper-parameter; None when it can.

    Args:
        ranges: The ranges of the architecture.
        name: Hyper-parameter.
        value: Its value.
    """
    searched = ranges.get(name)
    if searched is None:
        return f"{name} keeps its default here; give it a range that holds {value}, or leave it out"
    if isinstance(searched, ConstantRange):
        return None if _same(searched.value, value) else f"{name} is {searched.value} here, not {value}"
    if isinstance(searched, ChoiceRange):
        known = ", ".join(map(str, searched.choices))
        return None if any(_same(one, value) for one in searched.choices) else f"{value} is not among {known}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"{name} is a number, not {value}"
    whole = isinstance(searched, IntRange) or (isinstance(searched, LogRange) and searched.integer)
    if whole and not float(value).is_integer():
        return f"{name} is a whole number, not {value}"
    low, high = searched.low, searched.high
    return None if low <= value <= high else f"{value} is outside of the range of {name}, {low:g} to {high:g}"


def check_configurations(data: Any, catalog: Catalog) -> list[Finding]:
    """Check ``search.enqueue`` of a file against its architectures and ranges.

    Args:
        data: The plain data of the whole file; anything may be wrong with it.
        catalog: The known architectures.
    """
    listed = _section(data, "search").get("enqueue")
    if not isinstance(listed, list):
        return []
    findings: list[Finding] = []
    for index, one in enumerate(listed):
        if isinstance(one, dict):
            findings.extend(_check(("search", "enqueue", index), one, data, catalog))
    return findings


def settle_configurations(space: SearchSpace) -> SearchSpace:
    """A folded search space whose configurations have the types of its ranges."""
    enqueue = tuple(
        {
            name: value if name == ARCHITECTURE else settled(space.ranges(str(one[ARCHITECTURE])).get(name), value)
            for name, value in one.items()
        }
        for one in space.search.enqueue
    )
    return space.model_copy(update={"search": space.search.model_copy(update={"enqueue": enqueue})})


def _check(where: Loc, one: dict[str, Any], data: Any, catalog: Catalog) -> Iterator[Finding]:
    architectures = _section(data, "architectures")
    name = one.get(ARCHITECTURE)
    if name is None:
        yield where, f"the key '{ARCHITECTURE}' is missing", False
        return
    if name not in architectures or name not in catalog:
        text = unknown(str(name), "not an architecture of this search space", architectures)
        yield (*where, ARCHITECTURE), text, False
        return
    config = catalog[name]
    ranges = _ranges(config, _section(data, "shared"), _section(architectures, name))
    for parameter, value in one.items():
        if parameter == ARCHITECTURE or isinstance(value, list | dict):  # the latter is refused as no single value
            continue
        if parameter not in hyper_parameters(config):
            yield (
                (*where, parameter),
                unknown(parameter, f"not a hyper-parameter of {name}", hyper_parameters(config)),
                True,
            )
            continue
        texts = [text for _, text in check_range(config, parameter, value)]
        reason = misfit(ranges, parameter, value) if not texts and ranges is not None else None
        texts += [] if reason is None else [reason]
        yield from (((*where, parameter), text, False) for text in texts)


def _ranges(config: type[BaseModel], shared: dict[str, Any], own: dict[str, Any]) -> dict[str, AnyRange] | None:
    """The ranges of an architecture; None when one of them is refused elsewhere."""
    known = hyper_parameters(config)
    merged = {**{name: raw for name, raw in shared.items() if name in known}, **own}
    try:
        return {name: parse_range(raw) for name, raw in merged.items()}
    except (ValidationError, PydanticCustomError):
        return None


def _section(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def settled(searched: AnyRange | None, value: Any) -> Any:
    """A value in the type of its range: 1 for a range of real numbers is 1.0."""
    if isinstance(searched, UniformRange) or (isinstance(searched, LogRange) and not searched.integer):
        return float(value)
    if isinstance(searched, IntRange | LogRange):
        return int(value)
    if isinstance(searched, ChoiceRange):
        return next(one for one in searched.choices if _same(one, value))
    return searched.value if isinstance(searched, ConstantRange) else value
