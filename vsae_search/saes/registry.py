"""The architectures by name; every module in this package is scanned, so an architecture is one new file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from vsae_search.errors import UserInputError
from vsae_search.saes.base import SaeConfig, SparseAutoencoder

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGE = "vsae_search.saes"
_ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {}
_SCANNED: set[str] = set()

SaeType = TypeVar("SaeType", bound=type[SparseAutoencoder])


def register(name: str) -> Callable[[SaeType], SaeType]:
    """Class decorator that makes an architecture known under ``name``.

    Args:
        name: Name in search spaces, reports and files: lower-case letters, digits and underscores.

    Returns:
        The decorator; it returns the class unchanged but for its ``name``.

    Raises:
        UserInputError: The name is taken, or is not a lower-case identifier.
    """

    def decorate(cls: SaeType) -> SaeType:
        if not (name.isidentifier() and name == name.lower()):
            raise UserInputError(f"{name!r} cannot name an architecture", "use lower-case letters, digits and _")
        if name in _ARCHITECTURES:
            owner = _ARCHITECTURES[name].__module__
            raise UserInputError(f"architecture {name!r} is already registered by {owner}", "choose another name")
        cls.name = name
        _ARCHITECTURES[name] = cls
        return cls

    return decorate


def discover() -> None:
    """Import every public module of the package that has not been imported by an earlier call."""
    package = importlib.import_module(_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_") and module.name not in _SCANNED:
            importlib.import_module(f"{_PACKAGE}.{module.name}")
            _SCANNED.add(module.name)


def names() -> tuple[str, ...]:
    """Registered names, sorted."""
    discover()
    return tuple(sorted(_ARCHITECTURES))


def get(name: str) -> type[SparseAutoencoder]:
    """The class registered under ``name``.

    Raises:
        UserInputError: There is no such architecture.
    """
    discover()
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    close = difflib.get_close_matches(name, _ARCHITECTURES, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(_ARCHITECTURES))}"
    raise UserInputError(f"unknown architecture {name!r}", hint)


def config_classes() -> dict[str, type[SaeConfig]]:
    """Configuration class of every architecture, by name; the catalogue that search spaces are checked against."""
    return {name: get(name).Config for name in names()}


def create(name: str, *, seed: int = 0, **params: Any) -> SparseAutoencoder:
    """Build an architecture with fresh weights.

    Args:
        name: Registered name.
        seed: Seed of the initial weights.
        **params: Fields of the architecture's ``Config``; those not given take its defaults.

    Returns:
        The autoencoder, on the CPU in float32. ``initialise`` still has to see data (``fit`` does it otherwise).

    Raises:
        UserInputError: Unknown name, or hyper-parameters that the configuration refuses.
    """
    cls = get(name)
    try:
        config = cls.Config(**params)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'configuration'}: {problem['msg']}" for problem in error.errors()
        )
        raise UserInputError(f"{name}: {problems}", f"fields: {', '.join(cls.Config.model_fields)}") from error
    return cls(config, seed=seed)
