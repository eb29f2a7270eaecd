"""The sections of a search-space file other than the subject and the architectures."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vsae_search.space.strict import Refusal, Strict, refusal, refuse

_SCHEMES = ("http", "https", "sqlite", "postgresql")
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
    """Share of the steps, at the end, in which the learning rate falls linearly to zero."""
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
    sampler: Literal["auto", "gp", "tpe", "random", "qmc"] = "auto"
    """Who proposes hyper-parameters: auto starts with a Sobol sequence, then uses a Gaussian process and, for large budgets, TPE; gp and tpe start with the same sequence; random and qmc (Sobol) are one method throughout."""  # noqa: E501 - one sentence of documentation is one string
    startup_trials: int | None = Field(default=None, ge=1)
    """Number of trials of each architecture that are spread evenly before the sampler learns; left out, it is twice the number of searched hyper-parameters, at least 5."""  # noqa: E501 - one sentence of documentation is one string
    max_retries: int = Field(default=2, ge=0)
    """How often a trial is repeated after a failure of the infrastructure; a trial that diverges is never repeated."""


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


class ResourcesSpec(Strict):
    """What one trial occupies, and how many run at the same time."""

    cpus_per_trial: float = Field(default=1.0, gt=0)
    """Number of CPUs of one trial; it uses as many threads."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """Number of GPUs of one trial; a fraction such as 0.25 lets four trials share one."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Largest number of trials at the same time; left out, as many as fit."""
    object_store_gb: float | None = Field(default=None, gt=0)
    """Memory for the shared activations in gigabytes; left out, Ray chooses."""


class TrackingSpec(Strict):
    """Where the trials are recorded."""

    uri: str | None = None
    """Address of the MLflow tracking store: http, https, sqlite or postgresql; left out, a SQLite file in the sweep directory."""  # noqa: E501 - one sentence of documentation is one string
    experiment: str | None = Field(default=None, min_length=1, max_length=250)
    """Name of the MLflow experiment; left out, the name of the sweep."""
    save_weights: bool = True
    """Whether the trained weights of every trial are kept as an artifact."""

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str | None) -> str | None:
        if uri is not None:
            _check_uri(uri)
        return uri


def _check_uri(uri: str) -> None:
    """Refuse addresses that MLflow cannot use, and passwords, which would be stored beside the results."""
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.partition("+")[0].lower()  # postgresql+psycopg2 names a driver
    if scheme == "file" or not separator:
        raise refusal(
            "a folder cannot be the tracking store, because MLflow no longer writes folders; use sqlite:///<path>"
        )
    if scheme not in _SCHEMES:
        raise refusal(f"'{scheme}' is not among the possible schemes: {', '.join(_SCHEMES)}")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if (at and ":" in user) or "password=" in rest.lower():
        where = "PGPASSWORD or ~/.pgpass" if scheme == "postgresql" else "MLFLOW_TRACKING_PASSWORD"
        raise refusal(f"a password in the file would be stored beside the results; leave it out and set {where}")
