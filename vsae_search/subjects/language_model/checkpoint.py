"""Weights from files that were written with ``torch.save``: the only form in which the GELU-1L models are published.

Such a file is a pickle, and loading a pickle runs code. Two things make this one safe to read. ``weights_only=True``
interprets the pickle with a list of allowed constructors (tensors, dictionaries, numbers) and refuses everything else;
the known way around it needs torch before 2.6, which this project refuses to install with. And only the zip form is
read, never the older formats, whose readers are less restricted. A repository that has a safetensors file is read from
that instead. No other module of the package calls ``torch.load``; a test checks how this one does.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vsae_search.errors import CorruptFile, UserInputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors from a ``.safetensors`` or ``.pth`` file.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, in the type in which they are stored.

    Raises:
        CorruptFile: The file is damaged.
        UserInputError: The file holds something other than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise _damaged(path, error) from error
    content = load_restricted(path)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserInputError(f"{path} does not hold a dictionary of tensors", "Only plain weights can be read.")
    return {str(name): value for name, value in content.items()}


def load_restricted(path: Path) -> object:
    """Read a zip file of ``torch.save`` with torch's restricted reader: tensors, dictionaries, texts and numbers.

    Raises:
        CorruptFile: The file is damaged.
        UserInputError: The file holds something else.
    """
    if not zipfile.is_zipfile(path):
        raise CorruptFile(
            f"{path} is damaged, or in the format of torch before 1.6, which cannot be read safely",
            "Fetch the file again, or write its weights as a .safetensors file beside it.",
        )
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    except Exception as error:  # the class of the refusal lives in a module that this project does not import
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserInputError(
            f"{path} holds more than weights, and reading it could run code", "Use another copy of the model."
        ) from error
    return content


def _damaged(path: Path, error: Exception) -> CorruptFile:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CorruptFile(f"{path} is damaged: {reason[:200]}", "Delete it and fetch the model again.")
