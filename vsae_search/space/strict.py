"""The base of every model that is read from a file: frozen, and closed against unknown keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterable

Loc = tuple[str | int, ...]
"""A path inside a model: field names, mapping keys and list indices."""

Refusal = tuple[Loc, str, Any]
"""One reason to refuse a model: path below the model, a sentence, the offending value."""


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know, so that a typo is never ignored.

    The string under a field is its documentation; it becomes the description in the JSON Schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def refusal(text: str) -> PydanticCustomError:
    """An error for a field validator whose text reaches the user unchanged."""
    return PydanticCustomError("refused", "{text}", {"text": text})


def refuse(title: str, refusals: Iterable[Refusal]) -> NoReturn:
    """Raise one ``ValidationError`` that carries several problems, each at its own place.

    Args:
        title: Name of the model that refuses.
        refusals: What is wrong, and where below the model.

    Raises:
        ValidationError: Always.
    """
    raise ValidationError.from_exception_data(
        title,
        [InitErrorDetails(type=refusal(text), loc=loc, input=value) for loc, text, value in refusals],
    )
