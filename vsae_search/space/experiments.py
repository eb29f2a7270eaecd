"""Files that run a toy experiment: many small toy models instead of a search over autoencoders.

An experiment is a list of settings, each of which is trained with several seeds; a setting with a seed is a trial.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vsae_search.space.features import FeatureSpec, Importances
from vsae_search.space.model import check_name, digest_of
from vsae_search.space.sections import TrackingSpec
from vsae_search.space.strict import Refusal, Strict, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ARM = re.compile(r"[a-z][a-z0-9_]{0,39}")
Geometry = Literal["antipodal_pairs", "orthogonal_pairs", "polygon", "privileged_basis"]
"""An arrangement of features that is known to appear."""


class ToyRecipe(Strict):
    """How one toy model is trained: with Adam, from random weights and a bias of zero."""

    lr: float = Field(default=3e-3, gt=0)
    """Learning rate."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the learning rate falls to zero along a cosine or stays as it is."""
    batch_size: int = Field(default=1024, ge=1)
    """Number of rows in one optimiser step."""
    steps: int = Field(default=6000, ge=1)
    """Number of optimiser steps."""
    num_rows: int | None = Field(default=None, ge=1)
    """Number of rows that are drawn once and passed over again and again, in a new order each time; left out, every step has fresh rows."""  # noqa: E501 - one sentence of documentation is one string
    initial_deviation: float | None = Field(default=None, gt=0)
    """Standard deviation of the initial weights; left out, that of Xavier, sqrt(2 / (d_hidden + features))."""

    @model_validator(mode="after")
    def _whole_batches(self) -> ToyRecipe:
        if self.num_rows is not None and self.num_rows < self.batch_size:
            text = f"num_rows ({self.num_rows}) is less than batch_size ({self.batch_size}), so there is no batch"
            refuse("ToyRecipe", [(("num_rows",), text, self.num_rows)])
        return self


def _check_names(section: str, named: Mapping[str, object]) -> list[Refusal]:
    """What keeps the names of a section from being the names of trials."""
    refusals: list[Refusal] = [] if named else [((section,), f"{section} is empty; name at least one", None)]
    for name in named:
        if not _ARM.fullmatch(name):
            text = "a name has 1 to 40 characters: lower-case letters, digits and '_', a letter first"
            refusals.append(((section, name), text, name))
    return refusals


class ToySetting(Strict):
    """One toy model to be trained, without its seed.

    The arm is what the trials of a record are grouped by; the params tell apart the settings of one arm.
    """

    arm: str
    """Name of the group."""
    params: dict[str, float] = Field(default_factory=dict)
    """What distinguishes the setting inside its group."""
    features: FeatureSpec
    """The sparse features."""
    d_hidden: int
    """Width of the hidden layer."""
    model: Literal["basic", "neuron"]
    """Form of the hidden layer."""
    recipe: ToyRecipe
    """How it is trained."""
    expect: Geometry | None = None
    """The arrangement that is known to appear."""
    snapshots: int = 0
    """How often the weights are kept during the training."""


class PhaseTransitionExperiment(Strict):
    """From dense to sparse features: where superposition sets in."""

    type: Literal["phase_transition"]
    """Chooses this kind of experiment."""
    num_features: int = Field(ge=1, le=65_536)
    """Number of features; all of them have the same probability."""
    d_hidden: int = Field(ge=1, le=16_384)
    """Width of the hidden layer."""
    importance: Importances = 1.0
    """Weight of each feature in the loss: one number, one number per feature, or {decay: 0.7}."""
    model: Literal["basic", "neuron"] = "basic"
    """Form of the hidden layer: basic is h = W x, neuron is h = ReLU(W x)."""
    sparsity: tuple[Annotated[float, Field(ge=0, lt=1)], ...]
    """Sparsities to train at, rising; a feature is absent from a row with this probability."""
    threshold: float = Field(default=1.05, gt=0)
    """The transition is where the features per hidden dimension, ||W||_F^2 / d_hidden, cross this value."""
    recipes: dict[str, ToyRecipe]
    """Ways of training that are compared, by name."""
    seeds: int = Field(default=5, ge=1)
    """Number of toy models at each sparsity and with each recipe; more than before adds some."""

    @model_validator(mode="after")
    def _possible(self) -> PhaseTransitionExperiment:
        refusals: list[Refusal] = []
        if len(self.sparsity) < 2:
            refusals.append((("sparsity",), "a transition needs at least two sparsities", self.sparsity))
        for index, (previous, value) in enumerate(pairwise(self.sparsity), start=1):
            if value <= previous:
                refusals.append((("sparsity", index), f"sparsities rise, and {value} follows {previous}", value))
        refusals.extend(_check_names("recipes", self.recipes))
        if isinstance(self.importance, tuple) and len(self.importance) != self.num_features:
            text = f"the list has {len(self.importance)} entries, and there are {self.num_features} features"
            refusals.append((("importance",), text, self.importance))
        if refusals:
            refuse("PhaseTransitionExperiment", refusals)
        return self

    def settings(self) -> Iterator[ToySetting]:
        """Every recipe at every sparsity."""
        for name, recipe in self.recipes.items():
            for sparsity in self.sparsity:
                yield ToySetting(
                    arm=name,
                    params={"sparsity": sparsity},
                    features=FeatureSpec(count=self.num_features, probability=1 - sparsity, importance=self.importance),
                    d_hidden=self.d_hidden,
                    model=self.model,
                    recipe=recipe,
                )


class GeometryModel(Strict):
    """A toy model whose arrangement of features is looked at."""

    features: FeatureSpec
    """The sparse features."""
    d_hidden: int = Field(ge=1, le=16_384)
    """Width of the hidden layer."""
    model: Literal["basic", "neuron"] = "basic"
    """Form of the hidden layer: basic is h = W x, neuron is h = ReLU(W x), which has a privileged basis."""
    expect: Geometry | None = None
    """The arrangement that is known to appear, and is looked for: opposite or orthogonal directions within each set of two, a regular polygon in two dimensions, or features along the axes; left out, none."""  # noqa: E501 - one sentence of documentation is one string
    recipe: ToyRecipe = ToyRecipe()
    """How it is trained."""

    @model_validator(mode="after")
    def _can_be_found(self) -> GeometryModel:
        text = None
        if self.expect == "polygon" and (self.d_hidden != 2 or self.features.count < 3):
            text = "a polygon has at least three corners, one per feature, and lies in two dimensions (d_hidden: 2)"
        if self.expect in ("antipodal_pairs", "orthogonal_pairs") and 2 not in {s.size for s in self.features.sets}:
            text = "pairs are sets of two, and features.sets has none"
        if text is not None:
            refuse("GeometryModel", [(("expect",), text, self.expect)])
        return self


class GeometryExperiment(Strict):
    """Small toy models whose features arrange themselves in known figures."""

    type: Literal["geometry"]
    """Chooses this kind of experiment."""
    models: dict[str, GeometryModel]
    """The toy models, by name."""
    seeds: int = Field(default=5, ge=1)
    """Number of times that each toy model is trained, each time from other weights; more than before adds some."""
    snapshots: int = Field(default=60, ge=2, le=1000)
    """How often the weights are kept during each training."""

    @model_validator(mode="after")
    def _named(self) -> GeometryExperiment:
        if refusals := _check_names("models", self.models):
            refuse("GeometryExperiment", refusals)
        return self

    def settings(self) -> Iterator[ToySetting]:
        """Every toy model."""
        for name, one in self.models.items():
            yield ToySetting(
                arm=name,
                features=one.features,
                d_hidden=one.d_hidden,
                model=one.model,
                recipe=one.recipe,
                expect=one.expect,
                snapshots=self.snapshots,
            )


ExperimentSpec = Annotated[PhaseTransitionExperiment | GeometryExperiment, Field(discriminator="type")]
"""Any kind of experiment, told apart by its key ``type``."""


class ExperimentResources(Strict):
    """How much of the machine an experiment takes; one trial takes one CPU."""

    max_concurrent: int | None = Field(default=None, ge=1)
    """Largest number of trials at the same time; left out, as many as there are CPUs."""


class ExperimentSpace(Strict):
    """A file that runs a toy experiment; it has the key experiment where a search space has a subject."""

    name: str
    """Name of the sweep and of its directory: lower-case letters, digits, '.', '_' and '-', at most 80 characters."""
    description: str = ""
    """What this experiment is for; shown in the report."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the whole experiment: initial weights and rows follow from it."""
    experiment: ExperimentSpec
    """What is trained."""
    resources: ExperimentResources = ExperimentResources()
    """How many trials run at the same time."""
    tracking: TrackingSpec = TrackingSpec()
    """Where the trials are recorded."""

    @field_validator("name")
    @classmethod
    def _stays_in_its_directory(cls, name: str) -> str:
        return check_name(name)

    def digest(self) -> str:
        """SHA-256 of what decides the results, as canonical JSON; an experiment goes on while it stays the same.

        The number of seeds is not in it: a larger one adds trials, and a smaller one keeps those that there are.
        """
        return digest_of(self.model_dump(mode="json"))
