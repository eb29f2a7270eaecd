"""The sweep directory: made once, and bound to one search space."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.search.records import BANK_FOLDER, SWEEP_FILE, TRIALS_FOLDER, SweepRecord, read_record, write_text
from vsae_search.space.model import decisive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsae_search.space import ExperimentSpace, SearchSpace

SPACE_FILE = "space.yaml"
_SHOWN = 12


def prepare_directory(space: SearchSpace | ExperimentSpace, root: Path) -> Path:
    """Make ``<root>/<name>``, readable by its owner only; an existing one keeps its mode.

    Returns:
        The absolute sweep directory.

    Raises:
        EnvironmentNotReady: It cannot be made, or nothing can be written in it.
    """
    directory = (root / space.name).resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / BANK_FOLDER).mkdir(mode=0o700, exist_ok=True)  # activations can tell what the texts were
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / TRIALS_FOLDER).mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise EnvironmentNotReady(
            f"the sweep cannot be kept in {directory}: {error.strerror}",
            "make it a folder that you can write to, or give another one with --root",
        ) from error
    return directory


def earlier_session(space: SearchSpace | ExperimentSpace, directory: Path) -> SweepRecord | None:
    """The record of the sweep that this one goes on with; None for a new sweep.

    Raises:
        UserInputError: The directory belongs to another search space.
    """
    if not (directory / SWEEP_FILE).is_file():
        return None
    earlier = read_record(directory / SWEEP_FILE, SweepRecord)
    if earlier.digest == space.digest():
        return earlier
    changes = list(differences(decisive(earlier.space), decisive(space.model_dump(mode="json"))))
    changes = changes or ["  it was started with another version of this program"]
    more = [f"  and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
    raise UserInputError(
        "\n".join([f"the search space of the sweep {space.name} has changed:", *changes[:_SHOWN], *more]),
        "give the changed search space another name with --name, or undo the change to go on with the sweep",
    )


def write_space(space: SearchSpace | ExperimentSpace, directory: Path) -> None:
    """Write the search space as it is used, with every default spelled out."""
    yaml = YAML()
    yaml.default_flow_style = None
    text = io.StringIO()
    yaml.dump(space.model_dump(mode="json"), text)
    write_text(directory / SPACE_FILE, text.getvalue())


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What changed between two JSON values, one line per place."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            where = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield f"  {where}: was {old[key]!r}, is gone"
            elif key not in old:
                yield f"  {where}: is new: {new[key]!r}"
            else:
                yield from differences(old[key], new[key], where)
    elif old != new:
        yield f"  {path}: was {old!r}, is {new!r}"
