"""The formats of other libraries, one file each; a file that holds a ``FORMAT`` is found by itself."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.export.facts import Facts
    from vsae_search.export.plain import PlainSae

Files = dict[str, bytes]
"""Contents by file name."""


@dataclass(frozen=True, eq=False)
class Written:
    """One autoencoder in a format.

    Attributes:
        files: Its files.
        class_name: What the format calls this kind of autoencoder.
        needs_loader: Whether the other library has no class for it: one of the files is a class to import first.
    """

    files: Files
    class_name: str
    needs_loader: bool = False


@dataclass(frozen=True, eq=False)
class Read:
    """One autoencoder that was read.

    Attributes:
        sae: Its plain form, for activations as the model has them.
        class_name: What the format calls this kind of autoencoder.
        model: Model that it says it was trained on; None where it does not say.
        hook: Activation that it says it describes; None where it does not say.
        dataset: Text that it was trained on; None where it does not say.
    """

    sae: PlainSae
    class_name: str
    model: str | None = None
    hook: str | None = None
    dataset: str | None = None


class Format(Protocol):
    """A format that autoencoders can be read from.

    Attributes:
        name: What it is called on the command line.
    """

    name: str

    def read(self, path: Path) -> Read:
        """Read one autoencoder; nothing in the file can run code.

        Raises:
            UserInputError: There is none, or it computes something that cannot be evaluated here; says which.
            CorruptFile: The files are damaged.
        """


@runtime_checkable
class Writes(Protocol):
    """A format that autoencoders can be written in, too."""

    name: str

    def write(self, sae: PlainSae, facts: Facts) -> Written:
        """Spell an autoencoder in this format, the same bytes for the same arguments."""


def names(*, writable: bool = False) -> tuple[str, ...]:
    """Names of the formats, sorted; with ``writable``, of those that can be exported to."""
    return tuple(sorted(name for name, found in _discover().items() if not writable or isinstance(found, Writes)))


def reader(name: str) -> Format:
    """The format of a name.

    Raises:
        UserInputError: There is none.
    """
    found: Format | None = _discover().get(name)
    if found is None:
        raise _unknown(name, names())
    return found


def writer(name: str) -> Writes:
    """The format of a name, to export to.

    Raises:
        UserInputError: There is none.
    """
    found = _discover().get(name)
    if not isinstance(found, Writes):
        raise _unknown(name, names(writable=True))
    return found


def _discover() -> dict[str, Any]:
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    formats = [importlib.import_module(f"{__name__}.{name}").FORMAT for name in modules]
    return {found.name: found for found in formats}


def _unknown(name: str, known: tuple[str, ...]) -> UserInputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UserInputError(f"unknown format {name!r}", f"{hint}known: {', '.join(known)}")
