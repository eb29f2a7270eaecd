"""The sections of a search-space file other than the subject and the architectures."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from vsae_search.space.addresses import fault_of_artifacts, fault_of_database, fault_of_password, fault_of_tracking
from vsae_search.space.ranges import Scalar
from vsae_search.space.strict import Refusal, Strict, refusal, refuse

ARCHITECTURE = "architecture"
"""Key of a configuration that names its architecture."""
Configuration = Annotated[
    dict[str, Scalar],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {ARCHITECTURE: {"type": "string"}},
            "required": [ARCHITECTURE],
            "additionalProperties": {"type": ["number", "string", "boolean", "null"]},
        }
    ),
]
"""One configuration: an architecture and values of its hyper-parameters."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class ActivationsSpec(Strict):
    """How many activations are harvested, and how they are stored; they are shared by all trials."""

    num_tokens: int = Field(default=1_000_000, ge=1)
    """Number of activation rows for training; trials that need more pass over them several times."""
    evaluation_tokens: int = Field(default=20_000, ge=2)
    """Number of rows of the fixed evaluation set, on which every trial is measured."""
    calibration_tokens: int = Field(default=16_384, ge=1)
    """Number of rows on which initialisation and thresholds are set; disjoint from the training and evaluation rows."""
    shard_tokens: int = Field(default=65_536, ge=1)
    """Number of rows in one shard, the unit that is harvested, stored and shared."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Number format in which the rows are stored; trials always compute with 32-bit copies."""


class TrainingSpec(Strict):
    """How one trial is trained; the same for all architectures."""

    num_tokens: int = Field(default=1_000_000, ge=1)
    """Number of activation rows that a trial sees; more than activations.num_tokens means several epochs."""
    batch_size: int = Field(default=1024, ge=1)
    """Number of rows in one optimiser step."""
    lr_warmup_fraction: Fraction = 0.02
    """Share of the steps in which the learning rate rises linearly from zero, at most 1000 steps."""
    lr_decay_fraction: Fraction = 0.2
    """Share of the steps, at the end, in which the learning rate falls to zero."""
    lr_decay_shape: Literal["linear", "cosine", "quarter_cosine"] = "linear"
    """How the learning rate falls to zero: along a line, half a wave of a cosine, which begins and ends slowly, or a quarter of one, which only begins slowly."""  # noqa: E501 - one sentence of documentation is one string
    penalty_warmup_fraction: Fraction = 0.05
    """Share of the steps in which the sparsity penalty rises linearly from zero."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; a longer gradient is scaled down to it."""
    dead_window_tokens: int | None = Field(default=None, ge=1)
    """Number of rows without firing after which a latent counts as dead; left out, it is the smaller of 10 million and a tenth of num_tokens."""  # noqa: E501 - one sentence of documentation is one string
    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.25, 0.5, 1.0)
    """Fractions of the training at which a trial is evaluated and may be stopped; they increase and end in 1.0."""

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if not rungs:
            raise refusal("the list is empty; the last rung is 1.0, the end of the training")
        refusals: list[Refusal] = []
        for index, (previous, rung) in enumerate(pairwise(rungs), start=1):
            if rung <= previous:
                refusals.append(((index,), f"rungs increase, and {rung} follows {previous}", rung))
        if rungs[-1] != 1:
            text = f"the last rung is 1.0, the end of the training, not {rungs[-1]}"
            refusals.append(((len(rungs) - 1,), text, rungs[-1]))
        if refusals:
            refuse("TrainingSpec", refusals)
        return rungs

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSpec:
        refusals: list[Refusal] = []
        if self.num_tokens < self.batch_size:
            text = f"num_tokens ({self.num_tokens}) is less than batch_size ({self.batch_size}), so there is no step"
            refusals.append((("num_tokens",), text, self.num_tokens))
        if self.lr_warmup_fraction + self.lr_decay_fraction > 1:
            text = "the warm-up and the decay of the learning rate together are longer than the training"
            refusals.append((("lr_decay_fraction",), text, self.lr_decay_fraction))
        if refusals:
            refuse("TrainingSpec", refusals)
        return self

    @property
    def num_steps(self) -> int:
        """Number of optimiser steps of a trial; rows that do not fill a batch are dropped."""
        return max(1, self.num_tokens // self.batch_size)


class SearchSpec(Strict):
    """How many trials are run, and who proposes them."""

    trials: int = Field(default=48, ge=1)
    """Number of trials in total, split equally over the architectures, so at least one for each."""
    sampler: Literal["auto", "gp", "tpe", "nsga2", "qmc", "random", "grid"] = "auto"
    """Who proposes hyper-parameters: auto starts with a Sobol sequence, then uses a Gaussian process and, for large budgets, TPE; gp, tpe and nsga2 (a genetic algorithm) start with the same sequence; qmc (Sobol) and random are one method throughout; grid runs every combination of the choices and of as many points of each range of numbers as the budget pays for, and ends."""  # noqa: E501 - one sentence of documentation is one string
    allocation: Literal["equal", "joint"] = "equal"
    """How the trials are shared out: equal gives every architecture a study and a share of its own; joint lets one study choose the architecture of each trial, which favours those that lead; qmc and grid, which learn nothing, always share equally."""  # noqa: E501 - one sentence of documentation is one string
    startup_trials: int | None = Field(default=None, ge=1)
    """Number of trials of each architecture that are spread evenly before the sampler learns; left out, it is twice the number of searched hyper-parameters, at least 5; for nsga2 its first generation; for a joint study two, at least 10 in all."""  # noqa: E501 - one sentence of documentation is one string
    enqueue: tuple[Configuration, ...] = ()
    """Configurations that are run first and count as trials: each names its architecture and hyper-parameters inside their ranges; what is searched and not named is chosen by the Sobol sequence."""  # noqa: E501 - one sentence of documentation is one string
    max_retries: int = Field(default=2, ge=0)
    """How often a trial is repeated after a failure of the infrastructure; a trial that diverges is never repeated."""
    early_stopping: Literal["auto", "on", "off"] = "auto"
    """Whether a trial that falls behind the others of its architecture at a rung is stopped there; a stopped trial counts as one of the trials and never appears on a frontier. auto turns it on for the samplers and architectures for which it was measured to pay."""  # noqa: E501 - one sentence of documentation is one string
    eta: float = Field(default=2.0, gt=1)
    """With early stopping, about the best 1/eta of an architecture's trials go on at a rung; trials that no other one beats there in both objectives always do."""  # noqa: E501 - one sentence of documentation is one string
    grace_fraction: Fraction = 0.5
    """Share of its training that every trial gets before early stopping may end it, and at least twice the warm-up of the sparsity penalty; it is stopped at a rung, so the rung at this share, or the first one after it, is the first that decides."""  # noqa: E501 - one sentence of documentation is one string
    audit_fraction: Fraction = 0.1
    """Share of the trials to be stopped that are finished nevertheless, to measure how many of the stopped ones would have ended on the frontier of their architecture."""  # noqa: E501 - one sentence of documentation is one string
    max_failures: int | None = Field(default=5, ge=1)
    """Number of trials after which an architecture is given up when every one of them diverged or failed; null spends its whole budget."""  # noqa: E501 - one sentence of documentation is one string
    study_storage: str | None = None
    """Database of Optuna's studies: postgresql://user@host/database or sqlite:////absolute/path; left out, that of VSAE_SEARCH_STUDY_STORAGE, else a SQLite file in the sweep directory."""  # noqa: E501 - one sentence of documentation is one string

    @field_validator("study_storage")
    @classmethod
    def _is_a_database(cls, address: str | None) -> str | None:
        if address is not None and (fault := fault_of_password(address)):
            raise refusal(fault)
        if address is not None and (fault := fault_of_database(address)):
            raise refusal(f"{address!r} {fault}")
        return address

    def enqueued(self, architecture: str) -> tuple[dict[str, Any], ...]:
        """The configurations of one architecture that are run first, without its name."""
        return tuple(
            {name: value for name, value in one.items() if name != ARCHITECTURE}
            for one in self.enqueue
            if one.get(ARCHITECTURE) == architecture
        )


class ReferencePoint(Strict):
    """The worst corner of the objective plane; only what is better in both objectives counts for the hypervolume."""

    l0: float = Field(gt=0)
    """The largest L0 that still counts: the mean number of latents that fire on a row."""
    delta_ce: float = Field(gt=0)
    """The largest extra loss that still counts, in the unit of the subject's loss."""


class ObjectivesSpec(Strict):
    """What the trials are judged by."""

    reference: ReferencePoint | None = None
    """Reference point of the hypervolume; left out, it is the largest d_sae and the loss of mean ablation, measured when the sweep starts and recorded."""  # noqa: E501 - one sentence of documentation is one string
    l0_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """The smallest and the largest L0 of interest: the search fills this range evenly, and trials outside it do not count as progress; left out, any L0 counts."""  # noqa: E501 - one sentence of documentation is one string

    @model_validator(mode="after")
    def _range_has_room(self) -> ObjectivesSpec:
        if self.l0_range is None:
            return self
        low, high = self.l0_range
        if low >= high:
            text = f"the range of L0 rises from its first value to its second, not from {low:g} to {high:g}"
            refuse("ObjectivesSpec", [(("l0_range", 1), text, high)])
        if self.reference is not None and self.reference.l0 < high:
            text = f"the range of L0 ends at {high:g}, and nothing above reference.l0, {self.reference.l0:g}, counts"
            refuse("ObjectivesSpec", [(("l0_range", 1), text, high)])
        return self


class ResourcesSpec(Strict):
    """What one trial occupies, and how many run at the same time."""

    cpus_per_trial: Annotated[float, Field(gt=0)] | Literal["auto"] = 1.0
    """Number of CPUs of one trial; it uses as many threads. auto tries a short trial of every architecture and width first, and gives one CPU, or more where they would stand idle and are measured to make the trial faster."""  # noqa: E501 - one sentence of documentation is one string
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """Number of GPUs of one trial; a fraction such as 0.25 lets four trials share one. auto tries a short trial of every architecture and width first, and lets as many share a GPU as its memory holds and keep busy; without a GPU it is 0."""  # noqa: E501 - one sentence of documentation is one string
    max_concurrent: int | None = Field(default=None, ge=1)
    """Largest number of trials at the same time; left out, as many as fit."""
    object_store_gb: float | None = Field(default=None, gt=0)
    """Memory for the shared activations in gigabytes; left out, Ray chooses."""


class TrackingSpec(Strict):
    """Where the trials are recorded."""

    uri: str | None = None
    """Address of the MLflow tracking store: http, https, sqlite or postgresql; left out, that of VSAE_SEARCH_TRACKING_URI, else a SQLite file in the sweep directory."""  # noqa: E501 - one sentence of documentation is one string
    experiment: str | None = Field(default=None, min_length=1, max_length=250)
    """Name of the MLflow experiment; left out, the name of the sweep."""
    artifacts: str | None = None
    """Where weights and documents are kept: s3://bucket/prefix or an absolute path; left out, that of VSAE_SEARCH_ARTIFACTS, else what the tracking server decides, or the sweep directory. It is decided once, when the experiment is made."""  # noqa: E501 - one sentence of documentation is one string
    save_weights: bool = True
    """Whether the trained weights of every trial are kept as an artifact."""
    tensorboard: bool = False
    """Whether TensorBoard event files are written too, one directory per trial under tensorboard/ in the sweep directory."""  # noqa: E501 - one sentence of documentation is one string

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str | None) -> str | None:
        if uri is not None and (fault := fault_of_tracking(uri) or fault_of_password(uri)):
            raise refusal(fault)
        return uri

    @field_validator("artifacts")
    @classmethod
    def _known_place(cls, artifacts: str | None) -> str | None:
        if artifacts is not None and (fault := fault_of_artifacts(artifacts)):
            raise refusal(f"{artifacts!r} {fault}")
        return artifacts
