"""Values of a YAML file that remember where they were written.

A node is a mapping, a list or a single value with its place. ``compose`` builds the tree of one document from the
events of the YAML 1.2 parser and constructs plain data only: no tag of a file can name a class or run code, the
total size is bounded after aliases are expanded, and a recursive alias cannot be written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from vsae_search.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NODES = 20_000
MAX_DEPTH = 24
_MAX_DIGITS = 100
_TAG = "tag:yaml.org,2002:"

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: value for name, value in (("true", True), ("false", False)) for word in (name, name.title(), name.upper())
}


@dataclass(frozen=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def problem(self, message: str) -> Problem:
        """A problem at this place."""
        return Problem(self.file, self.line, self.column, message)


@dataclass
class Node:
    """A value and its place: a single value, a list of nodes, or a mapping from keys to (place of the key, node)."""

    place: Place
    value: Any

    def child(self, part: str | int) -> Node | None:
        """The value under a key or an index, if there is one."""
        if isinstance(self.value, dict) and part in self.value:
            entry: tuple[Place, Node] = self.value[part]
            return entry[1]
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            item: Node = self.value[part]
            return item
        return None

    def data(self) -> Any:
        """The plain value without places."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, (_, node) in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value

    def copy(self) -> Node:
        """A copy that shares no mutable part, with the same places."""
        value = self.value
        if isinstance(value, dict):
            value = {key: (place, node.copy()) for key, (place, node) in value.items()}
        elif isinstance(value, list):
            value = [node.copy() for node in value]
        return Node(self.place, value)

    def size(self) -> int:
        """Number of nodes of this tree."""
        nodes: list[Node] = []
        if isinstance(self.value, dict):
            nodes = [node for _, node in self.value.values()]
        elif isinstance(self.value, list):
            nodes = self.value
        return 1 + sum(node.size() for node in nodes)


class _Stop(Exception):
    """Reading cannot go on."""


def compose(text: str, origin: Place) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document.

    Args:
        text: The document.
        origin: File name, line and column of its first character.

    Returns:
        The tree, or None when it could not be read to the end, and all problems found on the way.
    """
    composer = _Composer(text, origin)
    try:
        return composer.document(), composer.problems
    except _Stop:
        return None, composer.problems


class _Composer:
    def __init__(self, text: str, origin: Place) -> None:
        self.text = text
        self.origin = origin
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.num_nodes = 0
        self.events = self._read()

    def _read(self) -> Iterator[Any]:
        """The events of the parser, its errors turned into problems."""
        try:
            yield from YAML(typ="safe", pure=True).parse(self.text)
        except ReaderError as error:
            before = self.text[: error.position]
            mark = (before.count("\n"), len(before) - before.rfind("\n") - 1)
            self._stop(self._at(*mark), f"the character #x{ord(self.text[error.position]):04x} is not allowed in YAML")
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._at(mark.line, mark.column) if mark else self.origin
            text = ", ".join(part for part in (error.context, error.problem) if part)
            if "mapping values are not allowed" in text:
                text = "a value cannot contain ': ' here; put it in quotes, or check the indentation"
            self._stop(place, f"this is not valid YAML: {text}")
        except (YAMLError, ValueError, OverflowError) as error:  # such as an escape beyond the last code point
            self._stop(self.origin, f"this is not valid YAML: {error}")

    def _at(self, line: int, column: int) -> Place:
        offset = self.origin.column if line == 0 else 1
        return Place(self.origin.file, self.origin.line + line, offset + column)

    def _place(self, event: Any) -> Place:
        return self._at(event.start_mark.line, event.start_mark.column)

    def _stop(self, place: Place, message: str) -> None:
        self.problems.append(place.problem(message))
        raise _Stop

    def document(self) -> Node:
        """The only document of the text."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._stop(self._place(event), "a second document starts here; one file is one search space")
                root = self._node(next(self.events), 1)
        return root or Node(self.origin, None)

    def _node(self, event: Any, depth: int) -> Node:
        place = self._place(event)
        if depth > MAX_DEPTH:
            self._stop(place, f"lists and mappings are nested more than {MAX_DEPTH} deep")
        if isinstance(event, AliasEvent):
            return self._alias(event, place)
        self._count(place, 1)
        self._check_tag(event, place)
        if isinstance(event, MappingStartEvent):
            node = self._mapping(place, depth)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(place, depth)
        else:
            node = Node(place, self._scalar(event, place))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _count(self, place: Place, num_nodes: int) -> None:
        self.num_nodes += num_nodes
        if self.num_nodes > MAX_NODES:
            self._stop(place, f"the file has more than {MAX_NODES} values after its aliases are expanded")

    def _alias(self, event: Any, place: Place) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            self._stop(place, f"*{event.anchor} refers to no value that ends before this place")
            raise AssertionError  # _stop does not return
        self._count(place, node.size())
        return node.copy()

    def _check_tag(self, event: Any, place: Place) -> None:
        tag = None if event.tag is None else str(event.tag)
        own = {MappingStartEvent: "map", SequenceStartEvent: "seq", ScalarEvent: "str"}[type(event)]
        if tag not in (None, "!", _TAG + own):
            shown = tag.replace(_TAG, "!!") if tag else ""
            text = f"the tag {shown} is not allowed: a search space is plain data, and no tag can create anything else"
            self.problems.append(place.problem(text))

    def _mapping(self, place: Place, depth: int) -> Node:
        entries: dict[str, tuple[Place, Node]] = {}
        for event in self.events:
            if isinstance(event, MappingEndEvent):
                break
            key_place, key = self._place(event), self._node(event, depth + 1).value
            node = self._node(next(self.events), depth + 1)
            if node.value is None:  # an omitted value has no place of its own
                node.place = key_place
            if not isinstance(key, str):
                self.problems.append(key_place.problem("a key is a text; put it in quotes"))
            elif key == "<<":
                self.problems.append(key_place.problem("merge keys ('<<') belong to YAML 1.1 and are not supported"))
            elif key in entries:
                first = entries[key][0].line
                self.problems.append(key_place.problem(f"duplicate key '{key}' (first at line {first})"))
            else:
                entries[key] = (key_place, node)
        return Node(place, entries)

    def _sequence(self, place: Place, depth: int) -> Node:
        items = []
        for event in self.events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._node(event, depth + 1))
        return Node(place, items)

    def _scalar(self, event: Any, place: Place) -> Any:
        text: str = event.value
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self.problems.append(place.problem("half of a surrogate pair is not a character"))
            return ""
        if event.style is not None or event.tag is not None:  # quoted, a block, or tagged as a text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            self.problems.append(place.problem(f"{text} cannot be used; numbers are finite"))
        elif _FLOAT.fullmatch(text) and len(text) > _MAX_DIGITS:
            self.problems.append(place.problem(f"a number with more than {_MAX_DIGITS} characters cannot be used"))
        elif _INT.fullmatch(text):
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text.replace("_", ""), base)
        elif _FLOAT.fullmatch(text):
            return self._finite(float(text.replace("_", "")), text, place)
        else:
            return text
        return 0.5  # stands for the refused number, so that the rest of the file is still checked

    def _finite(self, value: float, text: str, place: Place) -> float:
        if not math.isfinite(value):
            self.problems.append(place.problem(f"{text} is too large; numbers are finite"))
            return 0.5
        return value
