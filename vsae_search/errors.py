"""Errors that a user can cause or must know about: what happened, and what to do next.

Every error carries a ``message`` (what happened, where), a ``hint`` (what to do) and the exit code with which the
command line ends. Anything else that escapes is a bug and ends with exit code 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class VsaeSearchError(Exception):
    """Base of every error that is meant for a person.

    Attributes:
        message: What happened, and where.
        hint: What to do next; empty when there is nothing to add.
        exit_code: Exit status of the command line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both in args, so that the error survives pickling between processes
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UserInputError(VsaeSearchError, ValueError):
    """A file, option or value that the user gave cannot be used."""

    exit_code = 2


class UnsupportedExport(UserInputError):
    """The autoencoder computes its code in a way that the requested form cannot express."""


class EnvironmentNotReady(VsaeSearchError, RuntimeError):
    """Something outside the program is missing: disk space, a service, a lock, a permission."""

    exit_code = 3


class CorruptFile(VsaeSearchError, RuntimeError):
    """A stored file does not match its recorded size, shape or checksum."""

    exit_code = 3


class Diverged(VsaeSearchError, ArithmeticError):
    """Training produced a non-finite loss, gradient or metric; the same configuration would do it again.

    A trial that diverges is a result of the search and ends nothing; whatever else diverges (a toy model that is
    trained first) does so by the values that the user gave.
    """

    exit_code = 2


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM) and has saved its state; uncaught, it ends with exit code 143."""

    def __init__(self) -> None:
        super().__init__(143)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file, at a place in it (lines and columns count from 1).

    Attributes:
        file: The file, or the option that holds the assignment.
        line: Line of the file, or which of the assignments it is.
        column: Column of that line.
        message: What is wrong.
        assignment: Text of the assignment; empty for a problem of a file.
    """

    file: str
    line: int
    column: int
    message: str
    assignment: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class SearchSpaceError(UserInputError):
    """A search-space file is refused; carries every problem found, in file order."""

    def __init__(self, problems: tuple[Problem, ...], hint: str = "") -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint)
        self.problems = problems

    def __reduce__(self) -> tuple[type[SearchSpaceError], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.problems, self.hint)
