"""The ranges of a search space against the hyper-parameters that the architectures really have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice, product
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from vsae_search.space.ranges import AnyRange, ChoiceRange, ConstantRange, IntRange, LogRange, UniformRange, parse_range
from vsae_search.space.wording import sentence, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsae_search.space.model import SearchSpace
    from vsae_search.space.strict import Loc

Catalog = Mapping[str, type[BaseModel]]
"""The known architectures: registered name -> class of its hyper-parameters."""

Finding = tuple["Loc", str, bool]
"""A path in the file, a sentence, and whether it is the key (and not the value) that is wrong."""

_RESERVED = {
    "d_in": "d_in is the width of the subject's activations and follows from the subject; it cannot be given here",
}
_MAX_CORNERS = 1024


def hyper_parameters(config: type[BaseModel]) -> list[str]:
    """Names of the hyper-parameters that a file may give a range for."""
    return [name for name in config.model_fields if name not in _RESERVED and name not in _without_effect(config)]


def _without_effect(config: type[BaseModel]) -> frozenset[str]:
    """Inherited hyper-parameters that an architecture does not use, by its own ``without_effect``."""
    return getattr(config, "without_effect", frozenset())


def check_architectures(data: Any, catalog: Catalog, d_in: int | None) -> list[Finding]:
    """Check the sections ``shared`` and ``architectures`` of a file.

    Args:
        data: The plain data of the whole file; anything may be wrong with it.
        catalog: The known architectures.
        d_in: Width of the subject's activations; None when the subject is refused.

    Returns:
        Everything that is wrong with names, types and bounds, and combinations that no trial could use.
    """
    architectures = _mapping(data, "architectures")
    shared = _mapping(data, "shared")
    present = {name: catalog[name] for name in architectures if name in catalog}
    findings = list(_check_shared(shared, present))
    is_shared_sound = not findings
    for architecture in architectures:
        if architecture not in catalog:
            where: Loc = ("architectures", architecture)
            findings.append((where, unknown(architecture, "not an architecture", catalog), True))
            continue
        own = _mapping(architectures, architecture)
        found = list(_check_architecture(architecture, own, catalog[architecture]))
        if is_shared_sound and not found:
            found = list(_check_combinations(architecture, shared, own, catalog, d_in))
        findings.extend(found)
    return findings


def _check_shared(shared: dict[str, Any], present: dict[str, type[BaseModel]]) -> Iterator[Finding]:
    for name, raw in shared.items():
        owners = [config for config in present.values() if name in hyper_parameters(config)]
        if not owners and present:
            known = dict.fromkeys(field for config in present.values() for field in hyper_parameters(config))
            text = _RESERVED.get(name) or unknown(name, "a hyper-parameter of none of the architectures", known)
            if any(name in _without_effect(config) for config in present.values()):
                text = f"{name} has no effect on any of the architectures; leave it out"
            yield ("shared", name), text, True
        found = dict.fromkeys(finding for config in owners for finding in check_range(config, name, raw))
        yield from ((("shared", name, *loc), text, False) for loc, text in found)


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _check_architecture(architecture: str, own: dict[str, Any], config: type[BaseModel]) -> Iterator[Finding]:
    for name, raw in own.items():
        where: Loc = ("architectures", architecture, name)
        if name not in hyper_parameters(config):
            text = _RESERVED.get(name) or unknown(
                name, f"not a hyper-parameter of {architecture}", hyper_parameters(config)
            )
            if name in _without_effect(config):
                text = f"{name} has no effect on {architecture}; leave it out"
            yield where, text, True
        else:
            yield from (((*where, *loc), text, False) for loc, text in check_range(config, name, raw))


def check_range(config: type[BaseModel], name: str, raw: Any) -> Iterator[tuple[Loc, str]]:
    """Check both ends, or every choice, of a range against the type and the bounds of a hyper-parameter.

    Yields:
        Paths below the range, and sentences. A range that is misspelled yields nothing: it is refused elsewhere.
    """
    try:
        values = parse_range(raw)
    except (ValidationError, PydanticCustomError):
        return
    if isinstance(values, UniformRange) and is_whole(config, name):
        yield (), f"{name} is a whole number; write {{int: [low, high]}} or {{log: [low, high]}}"
        return
    for loc, value in _points(values):
        try:
            _adapter(config, name).validate_python(value, strict=True)
        except ValidationError as error:
            texts = dict.fromkeys(sentence(detail) for detail in error.errors())
            yield loc, " or ".join(texts)


def _points(values: AnyRange) -> list[tuple[Loc, Any]]:
    if isinstance(values, ChoiceRange):
        return [(("choices", index), value) for index, value in enumerate(values.choices)]
    if isinstance(values, ConstantRange):
        return [((), values.value)]
    return [(("low",), values.low), (("high",), values.high)]


@lru_cache(maxsize=1024)
def _adapter(config: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """The validator of one hyper-parameter, with its bounds."""
    field = config.model_fields[name]
    annotated: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotated)


def _types(config: type[BaseModel], name: str) -> set[Any]:
    annotation = config.model_fields[name].annotation
    return (set(get_args(annotation)) or {annotation}) - {type(None)}


def is_whole(config: type[BaseModel], name: str) -> bool:
    """Whether a hyper-parameter is a whole number."""
    return _types(config, name) == {int}


def _check_combinations(
    architecture: str, shared: dict[str, Any], own: dict[str, Any], catalog: Catalog, d_in: int | None
) -> Iterator[Finding]:
    """Build the configuration at the corners of the ranges, so that no trial can fail on an impossible combination."""
    config = catalog[architecture]
    names = hyper_parameters(config)
    merged = {**{name: raw for name, raw in shared.items() if name in names}, **own}
    if d_in is None and "d_in" in config.model_fields:
        return
    fixed = {"d_in": d_in} if "d_in" in config.model_fields else {}
    try:
        corners = [[value for _, value in _extremes(parse_range(raw))] for raw in merged.values()]
    except (ValidationError, PydanticCustomError):
        return
    for corner in islice(product(*corners), _MAX_CORNERS):
        values = dict(zip(merged, corner, strict=True))
        try:
            config.model_validate({**fixed, **values})
        except ValidationError as error:
            yield from _combination_findings(architecture, own, values, error)
            return


def _extremes(values: AnyRange) -> list[tuple[Loc, Any]]:
    """The ends of a range; of numeric choices the smallest and the largest, of others all."""
    points = _points(values)
    if len(points) > 2 and all(isinstance(value, int | float) for _, value in points):
        points.sort(key=lambda point: float(point[1]))
        return [points[0], points[-1]]
    return points


def _combination_findings(
    architecture: str, own: dict[str, Any], values: dict[str, Any], error: ValidationError
) -> Iterator[Finding]:
    for detail in error.errors():
        where: Loc = ("architectures", architecture)
        if detail["type"] == "missing":
            name = detail["loc"][-1]
            yield where, f"the hyper-parameter '{name}' has no default and needs a range", True
            continue
        if detail["loc"] and detail["loc"][0] in own:
            where = (*where, detail["loc"][0])
        given = ", ".join(f"{name} = {value}" for name, value in values.items())
        yield where, f"not every combination is possible: {sentence(detail)} (with {given})", True


def fold(space: SearchSpace, catalog: Catalog) -> SearchSpace:
    """Fold the shared ranges into the architectures that have the hyper-parameter, and settle the types of all ranges.

    Args:
        space: A search space that has passed ``check_architectures``.
        catalog: The known architectures.
    """
    folded = {}
    for architecture, own in space.architectures.items():
        config = catalog[architecture]
        names = hyper_parameters(config)
        merged = {**{name: value for name, value in space.shared.items() if name in names}, **own}
        folded[architecture] = {name: _settle(value, config, name) for name, value in merged.items()}
    return space.model_copy(update={"shared": {}, "architectures": folded})


def _settle(values: AnyRange, config: type[BaseModel], name: str) -> AnyRange:
    if isinstance(values, LogRange):
        whole = is_whole(config, name)
        kind = int if whole else float
        return LogRange(low=kind(values.low), high=kind(values.high), integer=whole)
    if _types(config, name) != {float} or isinstance(values, UniformRange | IntRange):
        return values
    if isinstance(values, ChoiceRange):
        return ChoiceRange(choices=tuple(_real(value) for value in values.choices))
    return ConstantRange(value=_real(values.value))


def _real(value: Any) -> Any:
    return float(value) if type(value) is int else value
