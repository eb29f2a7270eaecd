"""What every source of text offers to the packing: its documents in a fixed order, and a name for their content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

TOKEN_COLUMNS = ("tokens", "input_ids")
"""Names under which datasets keep text that is already tokenised."""


@dataclass(frozen=True, eq=False)
class TokenDocument:
    """A document that is already tokenised.

    Attributes:
        ids: Its tokens.
        packed: Whether it is one row of text that was packed before: such a row is cut into sequences by itself,
            while other documents are joined.
        where: Place in the source, for messages.
    """

    ids: NDArray[np.int64]
    packed: bool
    where: str


Document = str | TokenDocument


class Documents(Protocol):
    """The documents of one source, in an order that never changes."""

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over everything that determines the documents and their order."""
        ...

    def read(self, start: int) -> Iterator[Document]:
        """Yield the documents from number ``start`` on.

        Raises:
            UserInputError: The source cannot be read, or it holds something else than text.
            EnvironmentNotReady: The source is on a hub that cannot be reached.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is worth recording about the source, as values that JSON can hold."""
        ...


def choose_column(columns: Sequence[str], field: str, where: str) -> str:
    """Return the column to read: the one that was asked for, or one of tokens.

    Args:
        columns: Columns that are there.
        field: Column that was asked for.
        where: The source, for the message.

    Raises:
        UserInputError: Neither is there.
    """
    if field in columns:
        return field
    for name in TOKEN_COLUMNS:
        if name in columns:
            return name
    raise UserInputError(
        f"{where} has no column {field!r}, only {', '.join(map(repr, columns)) or 'none at all'}",
        "set field to the column that holds the text",
    )


def document_of(value: Any, column: str, where: str) -> Document | None:
    """Return the value of a column as a document; None when it is empty.

    Args:
        value: A text, or a list of token numbers.
        column: Name of the column.
        where: Place of the record, for the message.

    Raises:
        UserInputError: The value is something else.
    """
    if value is None or (isinstance(value, str) and not value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list | np.ndarray):
        try:
            ids = np.asarray(value)
        except ValueError:  # lists of different lengths
            ids = np.empty(0, dtype=object)
        if ids.ndim == 1 and ids.size == 0 and ids.dtype != object:
            return None
        if ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer):
            return TokenDocument(ids.astype(np.int64), True, where)
    raise UserInputError(
        f"{where}: the column {column!r} holds {_kind(value)}, and neither a text nor a list of token numbers",
        "set field to the column that holds the text",
    )


def field_of(record: Any, field: str, where: str) -> Any:
    """Return one field of a record of a JSON file.

    Raises:
        UserInputError: The record is not an object, or it lacks the field.
    """
    if not isinstance(record, dict):
        raise UserInputError(
            f"{where}: the record is {_kind(record)}, not an object with the field {field!r}",
            "each record of a JSON file is an object; plain text belongs into a .txt file",
        )
    if field not in record:
        keys: Mapping[str, Any] = record
        raise UserInputError(
            f"{where}: the record has no field {field!r}, only {', '.join(map(repr, keys)) or 'none at all'}",
            "set field to the name of the field that holds the text",
        )
    return record[field]


def text_of(value: Any, field: str, where: str) -> str | None:
    """Return the value of a field as a text; None when it is empty.

    Raises:
        UserInputError: The value is not a text.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UserInputError(
            f"{where}: the field {field!r} holds {_kind(value)}, not a text",
            "set field to the name of the field that holds the text",
        )
    return value


def _kind(value: Any) -> str:
    """Name a kind of value in the words of a JSON file."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", dict: "an object"}
    return names.get(type(value), "a list" if isinstance(value, list | np.ndarray) else type(value).__name__)
