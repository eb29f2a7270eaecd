"""The sparse features of a toy subject: how often they are present, how much they matter, how they depend."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vsae_search.space.bounds import check_copula, check_sets
from vsae_search.space.strict import Refusal, Strict, refuse

Probability = Annotated[float, Field(gt=0, le=1)]
Importance = Annotated[float, Field(ge=0)]
Matrix = tuple[tuple[float, ...], ...]


def _shape(value: Any) -> str | None:
    """Which of the alternatives of a field a value belongs to: a number, a list, or a mapping."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "<number>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<mapping>" if isinstance(value, dict | Strict) else None


def _alternatives(text: str) -> Discriminator:
    return Discriminator(_shape, custom_error_type="refused", custom_error_message=text)


_TOLERANCE = 1e-9


class LogSpaced(Strict):
    """Probabilities spaced evenly on a logarithmic scale, from the first feature to the last."""

    log: tuple[Probability, Probability]
    """The probability of the first feature and that of the last one, for example [0.1, 0.01]."""


class Decay(Strict):
    """Importance that falls geometrically over the features."""

    decay: float = Field(gt=0, le=1)
    """Feature i has the importance decay ** i; 1 makes all features equally important."""


class FeatureSet(Strict):
    """Sets of features that depend on each other."""

    kind: Literal["correlated", "anticorrelated", "hierarchical"]
    """How the members depend: correlated ones are present together, anticorrelated ones never are, and the first of hierarchical ones is a parent without which the others, its children, are absent."""  # noqa: E501 - one sentence of documentation is one string
    size: int = Field(ge=2)
    """Number of features in one set."""
    count: int = Field(default=1, ge=1)
    """Number of such sets; they occupy consecutive features."""
    strength: float = Field(default=1.0, ge=0, le=1)
    """Share of the rows in which the dependence holds; in the other rows the members are independent."""
    child_probability: Probability = 0.5
    """Probability of each child when its parent is present, used only by hierarchical sets; it replaces the child's own entry in probability."""  # noqa: E501 - one sentence of documentation is one string

    @model_validator(mode="after")
    def _used(self) -> FeatureSet:
        if self.kind != "hierarchical" and self.child_probability != 0.5:
            text = f"only hierarchical sets have children, and this one is {self.kind}"
            refuse("FeatureSet", [(("child_probability",), text, self.child_probability)])
        return self


Correlation = Annotated[
    Annotated[float, Tag("<number>")] | Annotated[Matrix, Tag("<list>")],
    _alternatives("must be one number, or a full matrix as a list of rows"),
]


class CopulaSpec(Strict):
    """A Gaussian copula that correlates the presence of the features outside the sets."""

    rho: Correlation | None = None
    """Correlation of the hidden normal variables: one number for all pairs, or a full matrix; either this or phi."""
    phi: Correlation | None = None
    """Correlation of the presences (the phi coefficient): one number for all pairs, or a full matrix; either this or rho."""  # noqa: E501 - one sentence of documentation is one string
    block_size: int | None = Field(default=None, ge=2)
    """With a number: features correlate only within consecutive blocks of this size; without it, all of them do."""

    @model_validator(mode="after")
    def _consistent(self) -> CopulaSpec:
        refusals: list[Refusal] = []
        if (self.rho is None) == (self.phi is None):
            refusals.append(((), "give exactly one of rho and phi", None))
        for name in ("rho", "phi"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                refusals.extend(_check_matrix(name, value))
                if self.block_size is not None:
                    refusals.append(
                        (("block_size",), f"a full matrix {name} already says which features belong together", None)
                    )
            elif value is not None and not -1 <= value <= 1:
                refusals.append(((name,), f"a correlation lies between -1 and 1, not {value}", value))
        if refusals:
            refuse("CopulaSpec", refusals)
        return self


def _check_matrix(name: str, matrix: Matrix) -> list[Refusal]:
    """What keeps a matrix from being a correlation matrix; whether it is positive definite is not checked here."""
    size = len(matrix)
    for i, row in enumerate(matrix):
        if len(row) != size:
            return [
                ((name, i), f"the matrix is not square: it has {size} rows, and this one has {len(row)} entries", row)
            ]
    refusals: list[Refusal] = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if i == j and abs(value - 1) > _TOLERANCE:
                refusals.append(((name, i, j), f"the diagonal of a correlation matrix is 1, not {value}", value))
            elif not -1 <= value <= 1:
                refusals.append(((name, i, j), f"a correlation lies between -1 and 1, not {value}", value))
            elif j < i and abs(value - matrix[j][i]) > _TOLERANCE:
                text = (
                    f"the matrix is not symmetric: row {i + 1}, column {j + 1} is {value}, its mirror is {matrix[j][i]}"
                )
                refusals.append(((name, i, j), text, value))
    return refusals


Importances = Annotated[
    Annotated[Importance, Tag("<number>")]
    | Annotated[tuple[Importance, ...], Tag("<list>")]
    | Annotated[Decay, Tag("<mapping>")],
    _alternatives("must be one number, a list with one number per feature, or {{decay: 0.9}}"),
]
"""Weights of features in a toy loss."""


class FeatureSpec(Strict):
    """The features of a toy subject; the sets occupy the first features in file order, the rest follow."""

    count: int = Field(ge=1, le=65_536)
    """Number of ground-truth features."""
    probability: Annotated[
        Annotated[Probability, Tag("<number>")]
        | Annotated[tuple[Probability, ...], Tag("<list>")]
        | Annotated[LogSpaced, Tag("<mapping>")],
        _alternatives("must be one number, a list with one number per feature, or {{log: [first, last]}}"),
    ]
    """Probability that a feature is present in a row: one number, one number per feature, or {log: [first, last]}."""
    importance: Importances = 1.0
    """Weight of each feature in the toy loss: one number, one number per feature, or {decay: 0.9}."""
    sets: tuple[FeatureSet, ...] = ()
    """Sets of dependent features, in file order from the first feature on."""
    copula: CopulaSpec | None = None
    """Correlation of the features that belong to no set; without it they are independent."""

    @model_validator(mode="after")
    def _possible(self) -> FeatureSpec:
        refusals = self._check_lengths()
        if not refusals:
            refusals = [*check_sets(self), *check_copula(self)]
        if refusals:
            refuse("FeatureSpec", refusals)
        return self

    def _check_lengths(self) -> list[Refusal]:
        refusals: list[Refusal] = []
        for name in ("probability", "importance"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.count:
                text = f"the list has {len(value)} entries, and there are {self.count} features"
                refusals.append(((name,), text, value))
        if not any(self.importances()):
            refusals.append((("importance",), "at least one feature needs an importance above 0", self.importance))
        return refusals

    def probabilities(self) -> tuple[float, ...]:
        """The probability of every feature, written out."""
        spec = self.probability
        if isinstance(spec, LogSpaced):
            first, last = spec.log
            steps = max(1, self.count - 1)
            return tuple(float(first * (last / first) ** (i / steps)) for i in range(self.count))
        return spec if isinstance(spec, tuple) else (float(spec),) * self.count

    def importances(self) -> tuple[float, ...]:
        """The importance of every feature, written out."""
        spec = self.importance
        if isinstance(spec, Decay):
            return tuple(float(spec.decay**i) for i in range(self.count))
        return spec if isinstance(spec, tuple) else (float(spec),) * self.count

    def members(self) -> tuple[tuple[FeatureSet, tuple[int, ...]], ...]:
        """Every single set with the indices of its features, in file order."""
        groups, start = [], 0
        for spec in self.sets:
            for _ in range(spec.count):
                groups.append((spec, tuple(range(start, start + spec.size))))
                start += spec.size
        return tuple(groups)

    @property
    def num_in_sets(self) -> int:
        """Number of features that belong to a set."""
        return sum(spec.size * spec.count for spec in self.sets)
