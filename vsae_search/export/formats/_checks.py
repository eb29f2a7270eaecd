"""What every reader checks before it believes a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vsae_search.errors import CorruptFile, UserInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_LARGEST = 1 << 24


def require_file(folder: Path, name: str, what: str) -> Path:
    """The path of a file in a folder.

    Raises:
        UserInputError: There is none, so this is not what the user took it for.
    """
    path = folder / name
    if not path.is_file():
        raise UserInputError(f"{folder} is not {what}: it has no {name}", "check the path, and --format")
    return path


def require_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that tensors are there, of the right shape, floating-point and finite.

    Raises:
        CorruptFile: One is not.
    """
    for name, shape in expected.items():
        tensor = tensors.get(name)
        found = "missing" if tensor is None else tuple(tensor.shape)
        if tensor is None or found != shape:
            raise CorruptFile(f"{path}: tensor {name} is {found} instead of {shape}", "fetch or save it again")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CorruptFile(f"{path}: tensor {name} holds values that are not finite numbers", "save it again")


def whole(config: Mapping[str, Any], key: str, path: Path, *, at_most: int = _LARGEST) -> int:
    """A positive whole number of a configuration.

    Raises:
        CorruptFile: It is missing, or something else.
    """
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= at_most:
        raise CorruptFile(f"{path}: {key} is {value!r}, not a whole number from 1 to {at_most}", "save it again")
    return value


def boolean(config: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    """A truth value of a configuration.

    Raises:
        CorruptFile: It is something else.
    """
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CorruptFile(f"{path}: {key} is {value!r}, neither true nor false", "save it again")
    return value


def text(config: Mapping[str, Any], key: str) -> str | None:
    """A text of a configuration; None where it is missing, empty or something else."""
    value = config.get(key)
    return value if isinstance(value, str) and value else None
