"""Ranges of hyper-parameters, and how they are spelled in a search-space file.

A range is ``{log: [a, b]}``, ``{uniform: [a, b]}``, ``{int: [a, b]}``, ``{choice: [...]}`` or a single value that is
not searched. Both ends belong to the range.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from vsae_search.space.strict import Strict, refusal, refuse


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"must be a number, not {value!r}")
    return value


def _whole_number(value: Any) -> Any:
    if type(value) is not int:
        raise refusal(f"must be a whole number, not {value!r}")
    return value


def _single_value(value: Any) -> Any:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise refusal("must be a single value: a number, a text, true, false or null")
    return value


def _positive_number(value: Any) -> Any:
    if _number(value) <= 0:
        raise refusal(f"must be greater than 0, not {value!r}; a logarithmic range cannot reach 0")
    return value


Positive = Annotated[StrictInt | StrictFloat, BeforeValidator(_positive_number)]
Whole = Annotated[StrictInt, BeforeValidator(_whole_number)]
Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr | None, BeforeValidator(_single_value)]
"""One value of a hyper-parameter; its type is kept (``1`` stays a whole number, ``1.0`` a float)."""

SPELLINGS = ("log", "uniform", "int", "choice")
SPELLING_HELP = "{log: [a, b]}, {uniform: [a, b]}, {int: [a, b]}, {choice: [...]} or a single value"


class LogRange(Strict):
    """Values between two positive ends whose logarithm is uniformly distributed; spelled ``{log: [low, high]}``."""

    low: Positive
    """Smallest value; greater than 0, because 0 has no logarithm."""
    high: Positive
    """Largest value."""
    integer: bool = False
    """Whether only whole numbers are drawn; follows from the type of the hyper-parameter."""

    @model_validator(mode="after")
    def _ordered(self) -> LogRange:
        _check_order("LogRange", self.low, self.high)
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            refuse("LogRange", [((), "a range of whole numbers has whole ends", [self.low, self.high])])
        return self

    @model_serializer
    def _spelling(self) -> dict[str, Any]:
        kind = int if self.integer else float
        return {"log": [kind(self.low), kind(self.high)]}


class UniformRange(Strict):
    """Real values spread evenly between two ends; spelled ``{uniform: [low, high]}``."""

    low: Annotated[float, BeforeValidator(_number)]
    """Smallest value."""
    high: Annotated[float, BeforeValidator(_number)]
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> UniformRange:
        _check_order("UniformRange", self.low, self.high)
        return self

    @model_serializer
    def _spelling(self) -> dict[str, Any]:
        return {"uniform": [self.low, self.high]}


class IntRange(Strict):
    """Whole numbers spread evenly between two ends, both included; spelled ``{int: [low, high]}``."""

    low: Whole
    """Smallest value."""
    high: Whole
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        _check_order("IntRange", self.low, self.high)
        return self

    @model_serializer
    def _spelling(self) -> dict[str, Any]:
        return {"int": [self.low, self.high]}


class ChoiceRange(Strict):
    """One of the listed values; spelled ``{choice: [a, b, ...]}``."""

    choices: tuple[Scalar, ...]
    """The values; at least one, none of them twice."""

    @model_validator(mode="after")
    def _distinct(self) -> ChoiceRange:
        if not self.choices:
            refuse("ChoiceRange", [((), "'choice' is empty; list at least one value", self.choices)])
        problems = []
        for index, value in enumerate(self.choices):
            same = [i for i in range(index) if _equal(self.choices[i], value)]
            if same:
                problems.append((("choices", index), f"{value!r} is listed twice", value))
        if problems:
            refuse("ChoiceRange", problems)
        return self

    @model_serializer
    def _spelling(self) -> dict[str, Any]:
        return {"choice": list(self.choices)}


class ConstantRange(Strict):
    """A single value that is not searched; spelled as the bare value."""

    value: Scalar
    """The value of every trial."""

    @model_serializer
    def _spelling(self) -> Scalar:
        return self.value


AnyRange = LogRange | UniformRange | IntRange | ChoiceRange | ConstantRange


def parse_range(raw: Any) -> AnyRange:
    """Turn the spelling of a file into a range.

    Args:
        raw: A mapping with one of the four keys, a bare value, or a range, which is returned as it is.

    Raises:
        ValidationError: An end or a choice is not possible.
        PydanticCustomError: The spelling is not one of the five.
    """
    if isinstance(raw, AnyRange):
        return raw
    if isinstance(raw, Mapping):
        return _parse_mapping(raw)
    if isinstance(raw, list | tuple):
        raise refusal("a bare list is not a range; write {choice: [...]} for a list of values")
    return ConstantRange(value=raw)


def _parse_mapping(raw: Mapping[Any, Any]) -> AnyRange:
    if len(raw) != 1 or (key := str(next(iter(raw)))) not in SPELLINGS:
        raise refusal(f"a range is {SPELLING_HELP}{_suggestion(raw)}")
    values = raw[key]
    if not isinstance(values, list | tuple):
        raise refusal(f"'{key}' needs a list: {{{key}: {'[...]' if key == 'choice' else '[low, high]'}}}")
    if key == "choice":
        return ChoiceRange.model_validate({"choices": values})
    if len(values) != 2:
        raise refusal(f"'{key}' needs exactly two values, [low, high], and has {len(values)}")
    low, high = values
    if key == "log":
        whole = all(type(end) is int for end in values)
        return LogRange.model_validate({"low": low, "high": high, "integer": whole})
    return (UniformRange if key == "uniform" else IntRange).model_validate({"low": low, "high": high})


def _suggestion(raw: Mapping[Any, Any]) -> str:
    if not raw:
        return ""
    for key in map(str, raw):
        if key not in SPELLINGS and (close := difflib.get_close_matches(key, SPELLINGS, n=1)):
            return f". Did you mean '{close[0]}'?"
    return f", not a mapping with the key{'s' if len(raw) > 1 else ''} {', '.join(repr(str(key)) for key in raw)}"


def _check_order(title: str, low: float, high: float) -> None:
    assert math.isfinite(low)
    assert math.isfinite(high)
    if low > high:
        refuse(title, [((), f"the range is reversed: {low} is greater than {high}", [low, high])])
    if low == high:
        refuse(title, [((), f"the range is empty: both ends are {low}; write the bare value {low}", [low, high])])


def _equal(a: Scalar, b: Scalar) -> bool:
    """Equality that keeps ``True`` apart from ``1``."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def range_json_schema(scalar: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a range in JSON Schema.

    Args:
        scalar: Schema of a single value; ``anyOf`` and lists of types are searched for a numeric alternative.
    """
    forms = [{**scalar, "description": "A single value, which is not searched."}]
    pair = {"minItems": 2, "maxItems": 2}
    if number := _numeric(scalar):
        text = "Values whose logarithm is evenly distributed between two ends above 0."
        forms.append(_spelled("log", _positive(number), text, pair))
        if number["type"] == "number":
            forms.append(_spelled("uniform", number, "Values spread evenly between the two ends.", pair))
        whole = {**number, "type": "integer"}
        forms.append(_spelled("int", whole, "Whole numbers between the two ends, both included.", pair))
    forms.append(_spelled("choice", scalar, "One of the listed values.", {"minItems": 1, "uniqueItems": True}))
    return forms


def _spelled(key: str, items: dict[str, Any], text: str, size: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "properties": {key: {"type": "array", "items": items, **size, "description": text}},
        "required": [key],
        "additionalProperties": False,
    }


def _numeric(scalar: dict[str, Any]) -> dict[str, Any] | None:
    """The alternative of a schema that allows numbers, if there is one."""
    kinds = scalar.get("type", [])
    for kind in ("number", "integer"):
        if kind in ([kinds] if isinstance(kinds, str) else kinds):
            return {**scalar, "type": kind}
    return next(filter(None, map(_numeric, scalar.get("anyOf", []))), None)


def _positive(number: dict[str, Any]) -> dict[str, Any]:
    if number.get("minimum", 0) > 0 or number.get("exclusiveMinimum", -1) >= 0:
        return number
    return {**{key: value for key, value in number.items() if key != "minimum"}, "exclusiveMinimum": 0}


Range = Annotated[
    AnyRange,
    BeforeValidator(parse_range),
    WithJsonSchema({"anyOf": range_json_schema({"type": ["number", "string", "boolean", "null"]})}),
]
"""Any range; validates the spelling of a file as well as a ready-made range."""
