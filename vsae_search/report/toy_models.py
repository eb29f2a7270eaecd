"""The toy models of an experiment as cards read them: weights and curves by arm, the lowest loss first.

Shapes: T snapshots, D hidden dimensions, M features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from vsae_search.errors import CorruptFile
from vsae_search.search.experiment.plan import REPLICATE, TOY_FILE
from vsae_search.space import ExperimentSpace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vsae_search.report.data import ReportData
    from vsae_search.report.source import Source
    from vsae_search.search.records import TrialRecord
    from vsae_search.space import ToySetting

ASCENDING = "Of each toy model the training that ended with the lowest loss comes first."


@dataclass(frozen=True, eq=False)
class StoredToy:
    """A toy model that was trained to its end.

    Attributes:
        record: Its trial.
        arrays: What the trial stored: ``W`` [D, M], ``b`` [M], ``snapshot_W`` [T, D, M], ...
    """

    record: TrialRecord
    arrays: Mapping[str, NDArray[Any]]

    @property
    def replicate(self) -> int:
        """Which of the seeds of its setting it is."""
        return int(self.record.params[REPLICATE])


def experiment_of(source: Source) -> ExperimentSpace:
    """The experiment as it was run."""
    return ExperimentSpace.model_validate(source.record.space)


def settings_of(source: Source) -> dict[str, ToySetting]:
    """The setting of each arm; of an arm with several, the last one."""
    return {setting.arm: setting for setting in experiment_of(source).experiment.settings()}


def stored_toys(source: Source) -> dict[str, list[StoredToy]]:
    """The completed toy models of each arm, by rising loss.

    Raises:
        CorruptFile: The weights of one cannot be read.
    """
    found: dict[str, list[StoredToy]] = {arm: [] for arm in source.record.architectures}
    for record in source.trials:
        if record.state == "completed":
            found.setdefault(record.architecture, []).append(StoredToy(record, _arrays(source, record.uid)))
    return {arm: sorted(toys, key=lambda toy: toy.record.metrics["toy_loss"]) for arm, toys in found.items()}


def nothing_trained(data: ReportData) -> str | None:
    """Why there is nothing to show, as a sentence; None when there is."""
    if any(row.state == "completed" for row in data.trials):
        return None
    return "No toy model has been trained to its end."


def _arrays(source: Source, uid: str) -> dict[str, NDArray[Any]]:
    path = source.folder(uid) / TOY_FILE
    try:
        return load_arrays(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CorruptFile(f"{path} is damaged: {error}", f"Delete {path.parent} and run again.") from error
