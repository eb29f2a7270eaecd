"""The search-space file as one model."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from vsae_search.space.ranges import AnyRange, Range
from vsae_search.space.sections import (
    ActivationsSpec,
    ObjectivesSpec,
    ResourcesSpec,
    SearchSpec,
    TrackingSpec,
    TrainingSpec,
)
from vsae_search.space.strict import Refusal, Strict, refusal, refuse
from vsae_search.space.subjects import SubjectSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_WITHOUT_EFFECT = (
    *(("description",), ("resources",), ("tracking",)),
    *(("search", "trials"), ("search", "max_failures"), ("search", "study_storage"), ("experiment", "seeds")),
)
"""What changes no result: words, places, and how many trials there are of the same kind."""
_TRIALS = ("search", "trials")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def _nothing_is_empty(value: Any) -> Any:
    """``topk:`` without a value means that every hyper-parameter keeps its default."""
    return {} if value is None else value


def check_name(name: str) -> str:
    """Refuse a name that cannot be the name of a directory on every machine."""
    if not _NAME.fullmatch(name):
        raise refusal(
            "becomes a directory, so it has 1 to 80 characters, starts with a lower-case letter or a digit, "
            "and has only lower-case letters, digits, '.', '_' and '-'"
        )
    return name


class SearchSpace(Strict):
    """One search space: what is explained, which architectures compete, and with which budget."""

    name: str
    """Name of the sweep and of its directory: lower-case letters, digits, '.', '_' and '-', at most 80 characters."""
    description: str = ""
    """What this search space is for; shown in the report."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the whole sweep: proposals, initial weights and batch order follow from it."""
    subject: SubjectSpec
    """What is explained."""
    activations: ActivationsSpec = ActivationsSpec()
    """How many activations are harvested, and how they are stored."""
    training: TrainingSpec = TrainingSpec()
    """How one trial is trained."""
    shared: dict[str, Range] = Field(default_factory=dict)
    """Ranges that every architecture with such a hyper-parameter gets, unless it names its own."""
    architectures: dict[str, Annotated[dict[str, Range], BeforeValidator(_nothing_is_empty)]]
    """The architectures that compete; each with ranges of its hyper-parameters, the others keep their defaults."""
    search: SearchSpec = SearchSpec()
    """How many trials are run, and who proposes them."""
    objectives: ObjectivesSpec = ObjectivesSpec()
    """What the trials are judged by."""
    resources: ResourcesSpec = ResourcesSpec()
    """What one trial occupies, and how many run at the same time."""
    tracking: TrackingSpec = TrackingSpec()
    """Where the trials are recorded."""

    @field_validator("name")
    @classmethod
    def _stays_in_its_directory(cls, name: str) -> str:
        return check_name(name)

    @field_validator("architectures")
    @classmethod
    def _at_least_one(cls, architectures: dict[str, dict[str, AnyRange]]) -> dict[str, dict[str, AnyRange]]:
        if not architectures:
            raise refusal("no architecture is named; name at least one")
        return architectures

    @model_validator(mode="after")
    def _affordable(self) -> SearchSpace:
        refusals: list[Refusal] = []
        if self.search.trials < len(self.architectures):
            text = (
                f"{self.search.trials} trials are too few for {len(self.architectures)} architectures; each needs one"
            )
            refusals.append((("search", "trials"), text, self.search.trials))
        share, rest = divmod(self.search.trials, max(1, len(self.architectures)))
        for position, name in enumerate(self.architectures):
            budget, given = share + (position < rest), len(self.search.enqueued(name))
            if given > budget:
                text = f"{given} configurations of {name} are more than its share of the trials, {budget}"
                refusals.append((("search", "enqueue"), text, None))
        rows, batch = self.activations.num_tokens, self.training.batch_size
        if batch > rows:
            text = f"activations.num_tokens ({rows}) is less than training.batch_size ({batch}), one step"
            is_default = "num_tokens" not in self.activations.model_fields_set
            loc = ("training", "batch_size") if is_default else ("activations", "num_tokens")
            refusals.append((loc, text, None))
        if refusals:
            refuse("SearchSpace", refusals)
        return self

    def ranges(self, architecture: str) -> dict[str, AnyRange]:
        """The ranges of one architecture: the shared ones, overridden by its own.

        A loaded search space has its shared ranges already folded into the architectures that have the
        hyper-parameter (``shared`` is then empty), so that no catalog is needed here.
        """
        return {**self.shared, **self.architectures[architecture]}

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form of what decides the results; a sweep goes on while it stays the same.

        Description, resources and tracking are not in it. Nor is the number of trials or of failures, because trials
        do not depend on how many come after them: a larger budget adds trials to a sweep, and with a smaller one it
        keeps those it has and is finished sooner. Only the points of a grid follow from it.
        """
        return digest_of(self.model_dump(mode="json"))


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON form of what decides the results in a file, given as JSON values."""
    text = json.dumps(decisive(values), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a search space or an experiment, as JSON values, that decides the results of its trials."""
    kept = dict(values)
    for *sections, key in _WITHOUT_EFFECT:
        inside = kept
        for section in sections:
            if section not in inside:
                break
            inside[section] = dict(inside[section])
            inside = inside[section]
        if (*sections, key) != _TRIALS or inside.get("sampler") != "grid":
            inside.pop(key, None)
    return kept
