"""Reading a search-space file: from text to a checked model, with every problem at its line and column."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from vsae_search.errors import Problem, SearchSpaceError, UserInputError
from vsae_search.space.catalog import check_architectures, fold
from vsae_search.space.configurations import check_configurations, settle_configurations
from vsae_search.space.experiments import ExperimentSpace
from vsae_search.space.model import SearchSpace
from vsae_search.space.overrides import OPTION, apply_overrides
from vsae_search.space.subjects import DirectionsSubject, LanguageModelSubject, SubjectSpec, ToyModelSubject
from vsae_search.space.tree import Node, Place, compose
from vsae_search.space.wording import closest, dotted, fields_at, locate, problem_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from vsae_search.space.catalog import Catalog

MAX_BYTES = 1_000_000
EXPERIMENT = "experiment"
"""The key by which the file of a toy experiment is told from a search space."""
Space = TypeVar("Space", bound=BaseModel)
_SUBJECT: TypeAdapter[ToyModelSubject | DirectionsSubject | LanguageModelSubject] = TypeAdapter(SubjectSpec)


def load_space(path: Path, catalog: Catalog, *, overrides: Sequence[str] = ()) -> SearchSpace:
    """Read and check a search-space file.

    Args:
        path: The YAML file.
        catalog: The known architectures and their hyper-parameter classes.
        overrides: Assignments ``a.b=value`` that replace values of the file.

    Returns:
        The search space; its shared ranges are folded into the architectures that have the hyper-parameter.

    Raises:
        SearchSpaceError: The file is refused; carries every problem, in file order.
    """
    space = load_any(path, catalog, overrides=overrides)
    if isinstance(space, ExperimentSpace):
        text = f"{path} describes a toy experiment, which trains no autoencoders"
        raise UserInputError(text, "Give a search space with a subject and architectures.")
    return space


def load_any(path: Path, catalog: Catalog, *, overrides: Sequence[str] = ()) -> SearchSpace | ExperimentSpace:
    """Read and check a search-space file, or one that has the key ``experiment`` and runs a toy experiment.

    Args and errors are those of :func:`load_space`.
    """
    origin = Place(str(path))
    root, problems = compose(_read(path), origin)
    if root is None:
        raise _refused(problems)
    if not isinstance(root.value, dict):
        raise _refused([*problems, _not_a_mapping(root, origin)])
    problems.extend(apply_overrides(root, overrides))
    if EXPERIMENT in root.value:
        experiment, found = _validate(root, ExperimentSpace)
        _refuse_problems(problems, found, overrides)
        assert experiment is not None
        return experiment
    space, found = _validate(root, SearchSpace)
    found.extend(_check_catalog(root, catalog))
    _refuse_problems(problems, found, overrides)
    assert space is not None
    return settle_configurations(fold(space, catalog))


def _refuse_problems(problems: list[Problem], found: list[Problem], overrides: Sequence[str]) -> None:
    """Refuse the file if anything was found, once for each place that could not be read."""
    unreadable = {(problem.file, problem.line, problem.column) for problem in problems}
    found = [problem for problem in found if (problem.file, problem.line, problem.column) not in unreadable]
    if problems or found:
        raise _refused([_with_assignment(problem, overrides) for problem in [*problems, *found]])


def excerpt(text: str, problem: Problem) -> str:
    """The line of a problem with a caret under its column.

    Args:
        text: The file, or the assignment, that the problem is in; an assignment is its only line.
        problem: A problem of that text.
    """
    lines = text.splitlines()
    index = 0 if problem.file == OPTION else problem.line - 1
    line = lines[index] if 0 <= index < len(lines) else ""
    return f"{line}\n{' ' * (problem.column - 1)}^"


def _read(path: Path) -> str:
    origin = Place(str(path))
    try:
        mode = path.stat().st_mode
        content = _content(path) if stat.S_ISREG(mode) else b""
    except FileNotFoundError:
        raise _refused([origin.problem("there is no such file")], "Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise _refused([origin.problem(f"the file cannot be read: {reason}")]) from None
    if not stat.S_ISREG(mode):
        kind = "a directory, not a file" if stat.S_ISDIR(mode) else "not a regular file"
        raise _refused([origin.problem(f"this is {kind}")])
    if len(content) > MAX_BYTES:
        raise _refused(
            [origin.problem(f"the file is larger than {MAX_BYTES // 1_000_000} MB; a search space is small")]
        )
    return _decode(content, origin)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _decode(content: bytes, origin: Place) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        place = Place(origin.file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _refused(
            [place.problem(f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")]
        ) from None


def _refused(problems: list[Problem], hint: str = "") -> SearchSpaceError:
    """The error with all problems in the order of the file, those of the assignments last."""
    ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.file == OPTION, p.line, p.column))
    count = f"{len(ordered)} problems" if len(ordered) > 1 else "1 problem"
    return SearchSpaceError(tuple(ordered), hint or f"{count}; nothing was started.")


def _with_assignment(problem: Problem, overrides: Sequence[str]) -> Problem:
    """A problem of an assignment with the text of that assignment; any other problem as it is."""
    on_one_line = all(len(f"{text}x".splitlines()) == 1 for text in overrides)
    if problem.file != OPTION or not on_one_line:  # its line counts assignments, and only then says which
        return problem
    return replace(problem, assignment=overrides[problem.line - 1])


def _not_a_mapping(root: Node, origin: Place) -> Problem:
    keys = ", ".join(SearchSpace.model_fields)
    if root.value is None:
        return origin.problem(f"the file is empty; a search space is a mapping with the keys {keys}")
    kind = "a list" if isinstance(root.value, list) else "a single value"
    return root.place.problem(f"a search space is a mapping with the keys {keys}, not {kind}")


def _validate(root: Node, model: type[Space]) -> tuple[Space | None, list[Problem]]:
    """Validate the tree; once more without its unknown keys, which would hide other problems."""
    data = root.data()
    try:
        return _parse(data, model), []
    except ValidationError as error:
        errors = error.errors()
    extras = [error for error in errors if error["type"] == "extra_forbidden"]
    for extra in extras:
        _remove(data, root, extra)
    if extras:
        try:
            _parse(data, model)
        except ValidationError as error:
            errors = [*extras, *error.errors()]
        else:
            errors = extras
    errors = [error for error in errors if not _is_misspelled(error, extras, model)]
    return None, [problem_of(error, root, model) for error in errors]


def _parse(data: Any, model: type[Space]) -> Space:
    # JSON is validated strictly ("1" is not 1, true is not 1) and still lets a list be a tuple.
    return model.model_validate_json(json.dumps(data), strict=True)


def _remove(data: Any, root: Node, extra: ErrorDetails) -> None:
    _, _, path = locate(root, extra["loc"][:-1])
    for part in path:
        data = data[part]
    data.pop(extra["loc"][-1], None)


def _is_misspelled(error: ErrorDetails, extras: list[ErrorDetails], model: type[BaseModel]) -> bool:
    """Whether a missing key is there with a typo; one problem is then enough."""
    if error["type"] != "missing":
        return False
    names = [extra["loc"][-1] for extra in extras if extra["loc"][:-1] == error["loc"][:-1]]
    known = fields_at(model, error["loc"][:-1])
    return any(closest(str(name), known) == error["loc"][-1] for name in names)


def _d_in(root: Node) -> int | None:
    """Width of the subject's activations; None when the subject is refused, or when only its model knows."""
    node = root.child("subject")
    if node is None:
        return None
    try:
        subject = _SUBJECT.validate_json(json.dumps(node.data()), strict=True)
    except ValidationError:
        return None
    return None if isinstance(subject, LanguageModelSubject) else subject.d_in


def _check_catalog(root: Node, catalog: Catalog) -> list[Problem]:
    problems = []
    data = root.data()
    findings = [*check_architectures(data, catalog, _d_in(root)), *check_configurations(data, catalog)]
    for loc, text, at_key in findings:
        node, key_place, path = locate(root, loc)
        problems.append((key_place if at_key else node.place).problem(dotted(path, text)))
    return problems
