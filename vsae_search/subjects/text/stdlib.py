"""Documents from Python's own standard library: the source files that come with the running interpreter."""

from __future__ import annotations

import functools
import hashlib
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsae_search.errors import EnvironmentNotReady
from vsae_search.subjects.seeds import digest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class StandardLibrary:
    """The modules of the standard library.

    Attributes:
        sha256: Digest of their content; it differs a little between versions of Python.
        python: Version of the interpreter they belong to.
    """

    sha256: str
    python: str

    @property
    def fingerprint(self) -> str:
        """Digest of the content of all modules."""
        return digest(["python_stdlib", self.sha256])

    def read(self, start: int) -> Iterator[str]:
        """Yield the modules from number ``start`` on.

        Raises:
            EnvironmentNotReady: This interpreter has other modules than the one with which the work was started.
        """
        if _digest() != self.sha256:
            raise EnvironmentNotReady(
                f"the standard library of Python {platform.python_version()} on this machine differs from that of"
                f" Python {self.python}, with which the work was started",
                "use the same version of Python on every machine",
            )
        for number, text in enumerate(_documents()):
            if number >= start:
                yield text

    def describe(self) -> dict[str, Any]:
        """Return the version of Python and the digest of its modules."""
        return {"source": "python_stdlib", "python": self.python, "sha256": self.sha256}


def open_standard_library() -> StandardLibrary:
    """Return the standard library of the running interpreter.

    Raises:
        EnvironmentNotReady: The interpreter comes without the source of its library.
    """
    return StandardLibrary(_digest(), platform.python_version())


def _documents() -> Iterator[str]:
    from vsae_search.subjects.tiny_gelu_1l.corpus import standard_library_documents

    return standard_library_documents()


@functools.cache
def _digest() -> str:
    state = hashlib.sha256()
    for text in _documents():
        state.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return state.hexdigest()
