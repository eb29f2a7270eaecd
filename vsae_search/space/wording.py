"""Errors of the validation library as problems of the file: at the right place, in plain sentences."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from vsae_search.space.ranges import SPELLINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic_core import ErrorDetails

    from vsae_search.errors import Problem
    from vsae_search.space.strict import Loc
    from vsae_search.space.tree import Node, Place

_KINDS = {
    "bool": "true or false",
    "dict": "a section with keys",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a section with keys",
    "model_attributes": "a section with keys",
    "string": "a text; put it in quotes",
    "tuple": "a list",
}
_COMPARISONS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelled one was probably meant to be, if one is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return close[0] if close else None


def unknown(word: str, what: str, known: Iterable[str]) -> str:
    """A sentence about an unknown word: with the closest known one, or else with all of them."""
    names = list(known)
    if close := closest(word, names):
        return f"'{word}' is {what}. Did you mean '{close}'?"
    return f"'{word}' is {what}. Known: {', '.join(names) or 'none'}"


def locate(root: Node, loc: Loc) -> tuple[Node, Place, tuple[str | int, ...]]:
    """Follow the path of a validation error as far as the file goes.

    Parts without a counterpart in the file (the names of alternatives) are skipped; ``low``, ``high`` and ``choices``
    of a range lead to the values in its list.

    Returns:
        The node, the place of its key (of the node itself in a list), and the path in the words of the file.
    """
    node, key_place = root, root.place
    path: list[str | int] = []
    for part in loc:
        for step in _steps(node, part):
            child = node.child(step)
            assert child is not None
            key_place = node.value[step][0] if isinstance(node.value, dict) else child.place
            node = child
            path.append(step)
    return node, key_place, tuple(path)


def _steps(node: Node, part: str | int) -> tuple[str | int, ...]:
    if node.child(part) is not None:
        return (part,)
    if isinstance(node.value, dict) and len(node.value) == 1 and part in ("low", "high", "choices"):
        key = next(iter(node.value))
        if key in SPELLINGS and isinstance(node.value[key][1].value, list):
            return (key,) if part == "choices" else (key, 0 if part == "low" else 1)
    return ()


def dotted(path: Iterable[str | int], text: str) -> str:
    """A message that starts with the path it is about."""
    where = ".".join(map(str, path))
    return f"{where}: {text}" if where else text


def problem_of(error: ErrorDetails, root: Node, model: type[BaseModel]) -> Problem:
    """One validation error of ``model`` as a problem of the file whose tree is ``root``."""
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        parent, _, path = locate(root, loc[:-1])
        name = str(loc[-1])
        place = parent.value[name][0] if isinstance(parent.value, dict) and name in parent.value else parent.place
        return place.problem(dotted(path, unknown(name, "an unknown key", fields_at(model, loc[:-1]))))
    if error["type"] == "union_tag_invalid":  # the key that chooses between alternatives is itself wrong
        loc = (*loc, error["ctx"]["discriminator"].strip("'"))
    node, key_place, path = locate(root, loc)
    if error["type"] == "missing":
        what = f"the key '{loc[-1]}' is missing" if isinstance(loc[-1], str) else "has too few values"
        return key_place.problem(dotted(path, what))
    return node.place.problem(dotted(path, sentence(error)))


def sentence(error: ErrorDetails) -> str:
    """What is wrong with a value, in a plain sentence without a full stop."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind in _COMPARISONS:
        key, words = _COMPARISONS[kind]
        return f"must be {words} {_plain(context[key])}, not {_shown(value)}"
    if kind == "int_from_float":
        return f"must be a whole number, not {_shown(value)}"
    if kind.endswith("_type") and (wanted := _KINDS.get(kind.removesuffix("_type"))):
        return f"must be {wanted}, not {_shown(value)}"
    if kind in _CONTEXT:
        return _CONTEXT[kind](context, value)
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be").rstrip(".")


def _literal(context: Mapping[str, Any], value: Any) -> str:
    known = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    return unknown(str(value), "not possible here", known)


def _unknown_type(context: Mapping[str, Any], _: Any) -> str:
    known = context["expected_tags"].replace("'", "").split(", ")
    return unknown(str(context["tag"]), "not a type", known)


_CONTEXT: dict[str, Callable[[Mapping[str, Any], Any], str]] = {
    "literal_error": _literal,
    "union_tag_invalid": _unknown_type,
    "union_tag_not_found": lambda context, _: f"the key {context['discriminator']} is missing",
    "too_long": lambda context, _: f"has more than {context['max_length']} values",
    "string_too_short": lambda context, _: f"has fewer characters than {context['min_length']}",
    "string_too_long": lambda context, _: f"has more than {context['max_length']} characters",
    "finite_number": lambda _, value: f"must be a finite number, not {_shown(value)}",
}


def _plain(number: float) -> str:
    return f"{number:.12g}" if isinstance(number, float) else str(number)


def _shown(value: Any) -> str:
    """A value as it appears in a message: short, and in the words of a file."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section with keys"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Names of the fields of the model at a path; names of alternatives in the path narrow the choice."""
    models = [model]
    for part in loc:
        fields = [m.model_fields[part] for m in models if isinstance(part, str) and part in m.model_fields]
        if fields:
            models = [found for field in fields for found in _models(field.annotation)]
        else:
            models = [m for m in models if _has_type(m, part)] or models
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _has_type(model: type[BaseModel], part: str | int) -> bool:
    kinds = [model.model_fields[name] for name in ("type", "source") if name in model.model_fields]
    return any(part in get_args(kind.annotation) for kind in kinds)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    args = get_args(annotation)
    return [m for arg in (args[:1] if get_origin(annotation) is Annotated else args) for m in _models(arg)]
