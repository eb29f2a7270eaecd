"""The trials of an experiment: each of its settings with each seed, under names that never change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vsae_search.search.assignment import Assignment
from vsae_search.search.records import ArchitecturePlan
from vsae_search.search.seeds import derive_seed

if TYPE_CHECKING:
    from vsae_search.space import ExperimentSpace, ToySetting

TOY_FILE = "toy_model.safetensors"
"""Weights and curves of a toy model, beside the record of its trial."""
REPLICATE = "replicate"
"""Key of a trial's parameters: which of the seeds of its setting it is, from 0."""


@dataclass(frozen=True)
class ToyTrial:
    """One toy model to train.

    Attributes:
        assignment: Name, parameters and seed; its architecture is the arm of the setting.
        setting: What is trained.
    """

    assignment: Assignment
    setting: ToySetting


def toy_trials(space: ExperimentSpace) -> tuple[ToyTrial, ...]:
    """Every trial of an experiment: first one of each setting, then a second one, and so on.

    The numbers of an arm go on with more seeds, so that earlier trials keep their names.
    """
    settings = tuple(space.experiment.settings())
    numbers: Counter[str] = Counter()
    trials = []
    for replicate in range(space.experiment.seeds):
        for setting in settings:
            number = numbers[setting.arm]
            numbers[setting.arm] += 1
            uid = f"{setting.arm}-{number:04d}"
            params = {**setting.params, REPLICATE: replicate}
            seed = derive_seed(space.seed, "toy", uid)
            trials.append(ToyTrial(Assignment(uid, setting.arm, number, params, seed, 0), setting))
    return tuple(trials)


def arm_plans(space: ExperimentSpace) -> dict[str, ArchitecturePlan]:
    """The number of trials of each arm."""
    counts = Counter(trial.setting.arm for trial in toy_trials(space))
    return {arm: ArchitecturePlan(trials=count, startup=0) for arm, count in counts.items()}
