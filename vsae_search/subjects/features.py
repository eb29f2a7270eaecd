"""Sparse features with dependent presence: which are on in a row, and how strongly.

Every feature is ``present * value`` with a value uniform on (0, 1], independent of everything else (a present feature
is never exactly 0, so presence can be read off the values). Presence is drawn set by set; a set of size m with
strength r follows its rule in a share r of the rows and is independent, with the same marginals, in the others:

* correlated: one uniform number is shared, member i is on when it is below p_i. Equal probabilities: always together.
  The correlation of two members of equal probability is r.
* anticorrelated: one uniform number is shared, the members own disjoint intervals of length p_i. Never together.
  Needs p_1 + ... + p_m <= 1; the correlation of two members of equal probability is -r p / (1 - p).
* hierarchical: the first member is the parent; each child is on with ``child_probability`` when the parent is on, and
  off otherwise. The marginal of a child is therefore p_parent * child_probability, whatever the file says for it.

Shapes: N rows, M features, C sets of one specification, Z features in each of them, S = C Z features in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.errors import UserInputError
from vsae_search.subjects.base import FeatureGroup
from vsae_search.subjects.copula import Copula, build_copula

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.space import FeatureSet, FeatureSpec

_CHUNK_ROWS = 4096  # rows drawn at a time: small enough for the cache of a processor


@dataclass(frozen=True, eq=False)
class _SetBlock:
    """Consecutive sets of one specification."""

    spec: FeatureSet
    first: int

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.spec.count * self.spec.size)


@dataclass(frozen=True, eq=False)
class Features:
    """A distribution over sparse feature vectors.

    Attributes:
        probability_M: Probability that each feature is present: the marginals of what is drawn.
        importance_M: Weight of each feature in a loss.
        groups: The sets, with the indices of their members.
        copula: The copula over the features outside the sets, if there is one.
    """

    probability_M: NDArray[np.float64]
    importance_M: NDArray[np.float64]
    groups: tuple[FeatureGroup, ...]
    copula: Copula | None
    _blocks: tuple[_SetBlock, ...]

    @property
    def count(self) -> int:
        """Number of features."""
        return len(self.probability_M)

    @property
    def num_in_sets(self) -> int:
        """Number of features that belong to a set; they come first."""
        return self._blocks[-1].columns.stop if self._blocks else 0

    def sample(self, generator: np.random.Generator, num_rows: int) -> NDArray[np.float32]:
        """Draw feature vectors.

        Args:
            generator: Source of randomness; it is advanced.
            num_rows: Number of rows N.

        Returns:
            Feature values [N, M], float32: 0 or in (0, 1].
        """
        free = self.num_in_sets if self.copula is not None else self.count
        features_NM = np.zeros((num_rows, self.count), dtype=np.float32)
        # Fresh memory costs more than the numbers that fill it, so that one chunk reuses the memory of the last one.
        uniform_NM = np.empty((min(num_rows, _CHUNK_ROWS), free), dtype=np.float32)
        present_NM = np.empty((len(uniform_NM), self.count), dtype=np.bool_)
        for start in range(0, num_rows, _CHUNK_ROWS):
            chunk_NM = features_NM[start : start + _CHUNK_ROWS]
            on_NM = present_NM[: len(chunk_NM)]
            self._presence(generator, uniform_NM[: len(chunk_NM)], on_NM)
            values = generator.random(int(np.count_nonzero(on_NM)), dtype=np.float32)
            chunk_NM[on_NM] = np.float32(1) - values
        return features_NM

    def _presence(
        self, generator: np.random.Generator, uniform_NM: NDArray[np.float32], present_NM: NDArray[np.bool_]
    ) -> None:
        """Draw which features are on into ``present_NM``; ``uniform_NM`` is scratch for all but those of the copula."""
        num_rows, free = uniform_NM.shape
        generator.random(out=uniform_NM, dtype=np.float32)
        np.less(uniform_NM, self.probability_M[:free].astype(np.float32), out=present_NM[:, :free])
        for block in self._blocks:
            self._apply_set(block, generator, uniform_NM[:, block.columns], present_NM[:, block.columns])
        if self.copula is not None:
            normal_NM = generator.standard_normal((num_rows, self.count - free), dtype=np.float32)
            latent_NM = normal_NM @ self.copula.factor_MM.T.astype(np.float32)
            np.greater(latent_NM, self.copula.threshold_M.astype(np.float32), out=present_NM[:, free:])

    def _apply_set(
        self,
        block: _SetBlock,
        generator: np.random.Generator,
        uniform_NM: NDArray[np.float32],
        present_NM: NDArray[np.bool_],
    ) -> None:
        """Overwrite independent presence with the rule of a set, in the rows where the rule holds.

        A row uses its uniform numbers either for the rule or for independence, never for both, so that they can be
        shared between the two.
        """
        spec = block.spec
        ruled_NS = _set_rule(spec, self.probability_M[block.columns], uniform_NM)
        if spec.strength < 1:
            holds_NC = generator.random((len(uniform_NM), spec.count), dtype=np.float32) < np.float32(spec.strength)
            ruled_NS = np.where(holds_NC.repeat(spec.size, axis=1), ruled_NS, present_NM)
        present_NM[:] = ruled_NS

    def describe(self) -> dict[str, Any]:
        """Return what the features are meant to be, as JSON values; what is achieved is measured by the subject."""
        copula = self.copula and {
            "repaired": self.copula.repaired,
            "largest_rho_change": self.copula.largest_change,
            "features": [self.num_in_sets, self.count],
        }
        return {
            "count": self.count,
            "probability": self.probability_M.tolist(),
            "importance": self.importance_M.tolist(),
            "sets": [{"kind": group.kind, "members": list(group.members)} for group in self.groups],
            "copula": copula,
        }

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the rows, as JSON values, for content addresses."""
        return {
            "generator": 1,  # to be raised with every change of the drawing itself
            "probability": self.probability_M.tolist(),
            "importance": self.importance_M.tolist(),
            "sets": [block.spec.model_dump(mode="json") for block in self._blocks],
            "rho": self.copula.rho_MM.round(9).tolist() if self.copula else None,
        }


def _set_rule(
    spec: FeatureSet, probability_S: NDArray[np.float64], uniform_NS: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Apply the rule of a set to uniform numbers; the first of each set is the one that is shared.

    Everything stays two-dimensional, with the sets side by side: loops over the few members of a set are slow.
    """
    first_S = np.arange(spec.count * spec.size) // spec.size * spec.size
    shared_NS = uniform_NS.take(first_S, axis=1)
    if spec.kind == "correlated":
        return np.asarray(shared_NS < probability_S.astype(np.float32))
    if spec.kind == "anticorrelated":
        upper_CZ = probability_S.reshape(spec.count, spec.size).cumsum(axis=1).astype(np.float32)
        lower_CZ = np.concatenate([np.zeros((spec.count, 1), np.float32), upper_CZ[:, :-1]], axis=1)
        return np.asarray((shared_NS >= lower_CZ.reshape(-1)) & (shared_NS < upper_CZ.reshape(-1)))
    is_parent_S = first_S == np.arange(len(first_S))
    own_S = np.where(is_parent_S, 1.0, spec.child_probability).astype(np.float32)
    return np.asarray((shared_NS < probability_S[first_S].astype(np.float32)) & (uniform_NS < own_S))


def build_features(spec: FeatureSpec) -> Features:
    """Turn the features of a search space into a distribution.

    Raises:
        UserInputError: The request is impossible; the message names the bound.
    """
    probability_M = np.array(spec.probabilities(), dtype=np.float64)
    importance_M = np.array(spec.importances(), dtype=np.float64)
    _check_lengths(spec, probability_M, importance_M)
    blocks, groups, first = [], [], 0
    for set_spec in spec.sets:
        block = _SetBlock(set_spec, first)
        first = block.columns.stop
        probability_M[block.columns] = _set_marginals(set_spec, probability_M[block.columns], block.first)
        blocks.append(block)
        members = np.arange(block.first, first).reshape(set_spec.count, set_spec.size)
        groups += [FeatureGroup(set_spec.kind, tuple(row)) for row in members.tolist()]
    copula = build_copula(spec.copula, probability_M[first:]) if spec.copula and first < spec.count else None
    return Features(probability_M, importance_M, tuple(groups), copula, tuple(blocks))


def _check_lengths(spec: FeatureSpec, probability_M: NDArray[np.float64], importance_M: NDArray[np.float64]) -> None:
    """Refuse lists that do not name every feature, and sets that need more features than there are."""
    for name, values in (("probability", probability_M), ("importance", importance_M)):
        if len(values) != spec.count:
            raise UserInputError(
                f"features.{name} lists {len(values)} numbers for {spec.count} features",
                "Give one number, or one number per feature.",
            )
    if spec.num_in_sets > spec.count:
        raise UserInputError(
            f"the sets need {spec.num_in_sets} features, but features.count is {spec.count}",
            f"Raise features.count to at least {spec.num_in_sets}, or ask for fewer or smaller sets.",
        )


def _set_marginals(spec: FeatureSet, probability_M: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Return the marginals of the members of the sets, refusing what is impossible."""
    probability_CZ = probability_M.reshape(spec.count, spec.size).copy()
    totals_C = probability_CZ.sum(axis=1)
    if spec.kind == "anticorrelated" and totals_C.max() > 1 + 1e-9:
        worst = int(totals_C.argmax())
        start = first + worst * spec.size
        raise UserInputError(
            f"an anticorrelated set of {spec.size} features is impossible: the probabilities of features {start} to "
            f"{start + spec.size - 1} sum to {totals_C[worst]:.4g} (m * p), and at most one of them can be on, "
            "so that the sum must be at most 1",
            f"Use probabilities of at most 1/{spec.size} on average, or smaller sets.",
        )
    if spec.kind == "hierarchical":
        probability_CZ[:, 1:] = probability_CZ[:, :1] * spec.child_probability
    return probability_CZ.reshape(-1)
