"""From a subject's specification to the subject: one builder per type of specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vsae_search.space import SubjectSpec
    from vsae_search.subjects.base import Subject

Spec = TypeVar("Spec")

_BUILDERS: dict[type[Any], Callable[[Any, Path], Subject]] = {}


def builds(
    spec_type: type[Spec],
) -> Callable[[Callable[[Spec, Path], Subject]], Callable[[Spec, Path], Subject]]:
    """Register the decorated function as the builder of subjects of one specification type.

    Args:
        spec_type: Class of the specification, as found in a search space.

    Returns:
        A decorator that leaves the function as it is.
    """

    def decorate(builder: Callable[[Spec, Path], Subject]) -> Callable[[Spec, Path], Subject]:
        assert spec_type not in _BUILDERS, f"two builders for {spec_type.__name__}"
        _BUILDERS[spec_type] = builder
        return builder

    return decorate


def build_subject(spec: SubjectSpec, cache: Path) -> Subject:
    """Build the subject that a search space asks for.

    Whatever is expensive (training a toy model) is done once per specification and kept under ``cache``.

    Args:
        spec: The ``subject`` section of a search space.
        cache: Directory for files worth keeping; created when missing.

    Returns:
        The subject.

    Raises:
        UserInputError: The specification asks for something impossible.
        CorruptFile: A file under ``cache`` is damaged.
    """
    return _BUILDERS[type(spec)](spec, cache)
