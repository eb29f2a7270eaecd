"""Assignments ``a.b=value`` that replace single values of a search-space file.

The value is read as YAML data, never evaluated. A name that the file does not have is added, and refused later like
any unknown key of the file itself; its place is then ``--set:n:column`` for the n-th assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsae_search.space.tree import Node, Place, compose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vsae_search.errors import Problem

OPTION = "--set"


def apply_overrides(root: Node, overrides: Sequence[str]) -> list[Problem]:
    """Change the tree of a file as the assignments say, in their order.

    Args:
        root: The mapping at the top of the file; changed in place.
        overrides: Assignments; a part of the path is a key, or an index from 0 in a list.

    Returns:
        What is wrong with the assignments themselves.
    """
    problems: list[Problem] = []
    for line, text in enumerate(overrides, start=1):
        path, equals, value_text = text.partition("=")
        origin = Place(OPTION, line)
        if not equals:
            problems.append(origin.problem(f"'{text}' has no '='; write a.b=value"))
            continue
        value, found = compose(value_text, Place(OPTION, line, len(path) + 2))
        problems.extend(found)
        if value is not None and (problem := _assign(root, path, value, origin)):
            problems.append(problem)
    return problems


def _assign(root: Node, path: str, value: Node, origin: Place) -> Problem | None:
    node, column = root, 1
    parts = path.split(".")
    for index, part in enumerate(parts):
        place = Place(origin.file, origin.line, column)
        is_last = index == len(parts) - 1
        if not part:
            return place.problem(f"'{path}' has an empty part; write a.b=value")
        if node.value is None:  # 'topk:' without a value is an empty section
            node.value = {}
        where = ".".join(parts[:index])
        if isinstance(node.value, list):
            if not (part.isascii() and part.isdigit() and int(part) < len(node.value)):
                return place.problem(f"{where} is a list of {len(node.value)} values, and '{part}' is no index of it")
            if is_last:
                node.value[int(part)] = value
            node = node.value[int(part)]
        elif isinstance(node.value, dict):
            if is_last:
                node.value[part] = (place, value)
            node = node.value.setdefault(part, (place, Node(place, {})))[1]
        else:
            return place.problem(f"{where} is a single value and has no part '{part}'")
        column += len(part) + 1
    return None
