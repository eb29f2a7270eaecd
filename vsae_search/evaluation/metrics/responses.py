"""How much the latent of one feature responds to the other features of its set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary

_PREFIX = {"correlated": "", "anticorrelated": "anticorrelated_", "hierarchical": "hierarchical_"}
_NO_VARIANCE = 1e-9  # of the largest eigenvalue: below it features vary together exactly
_MIN_RESPONSE = 1e-12  # of the responses to the own features: below it there is nothing to compare with


def responses(covariance_GG: NDArray[np.float64], joint_GG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slopes of the multiple regression of each latent on the values of the features of a set.

    A feature that never varies gets slope 0, and features that vary together exactly share theirs (pseudo-inverse).

    Args:
        covariance_GG: Covariance of the values of the G features.
        joint_GG: Covariance of each latent (row) with each feature (column).

    Returns:
        Slopes [G, G]: row a is the latent of feature a, column b its response to feature b.
    """
    return np.asarray(joint_GG @ np.linalg.pinv(covariance_GG, rcond=_NO_VARIANCE, hermitian=True))


def leaked_share(slopes: Sequence[NDArray[np.float64]]) -> float | None:
    """Return the mean |response| to the other features over the mean |response| to the own one, over all sets.

    Returns:
        ``None`` when no latent responds to its own feature.
    """
    pairs = sum(len(slope_GG) * (len(slope_GG) - 1) for slope_GG in slopes)
    other = sum(float(np.abs(slope_GG).sum() - np.abs(np.diag(slope_GG)).sum()) for slope_GG in slopes)
    own = sum(float(np.abs(np.diag(slope_GG)).sum()) * (len(slope_GG) - 1) for slope_GG in slopes)
    return other / own if pairs and own / pairs > _MIN_RESPONSE else None


class Responses(Metric):
    """Leakage in the code: what the latent of a feature does when a partner from the same true set is varied.

    c(a) is the alive latent closest to feature a. Its code, times the norm of its decoder row, is regressed by least
    squares, with an intercept, on the values of all features of the set of a; R_ab is the slope of feature b.
    The leakage is sum |R_ab| / sum |R_aa| over all ordered pairs a, b within sets of one kind: 0 when the latents
    respond to their own feature alone, 1 when they respond to a partner as much, as a latent does that two features
    share. Unlike a comparison of rows with one partner only, it is defined for features that always occur together:
    their values still vary independently. Left out: kinds that the subject does not have, and all of them when no
    latent responds. Shapes: B rows of one chunk, F latents, M represented features, G features of a set.

    Reference: definition of this project, of the effect described in "Sparse but Wrong", arXiv 2508.16560.
    """

    infos = tuple(
        MetricInfo(
            f"{prefix}response_leakage",
            "1",
            "lower",
            f"Sum of |response of c(a) to b| over ordered pairs (a, b) within {kind} sets, / that of |response to a|.",
        )
        for kind, prefix in _PREFIX.items()
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        truth, features_NM = context.truth, context.rows.features_NM
        assert truth is not None
        assert features_NM is not None
        self._value_NM = features_NM[:, truth.index_M].astype(np.float32)
        self._value_NM -= self._value_NM.mean(axis=0, dtype=np.float64).astype(np.float32)  # keeps sums small
        self._joint_FM = torch.zeros(context.d_sae, truth.size, dtype=torch.float64)
        self._code_F = torch.zeros(context.d_sae, dtype=torch.float64)

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether features were drawn together, and their values are known."""
        return context.truth is not None and bool(context.truth.groups) and context.rows.features_NM is not None

    def update(self, batch: Batch) -> None:
        """Take in one chunk."""
        value_BM = torch.from_numpy(self._value_NM[batch.start : batch.start + len(batch.f_BF)]).to(batch.f_BF.device)
        self._joint_FM += (batch.f_BF.float().T @ value_BM).double().cpu()
        self._code_F += batch.f_BF.sum(dim=0, dtype=torch.float64).cpu()

    def result(self, summary: Summary) -> Values:
        """Return the leakage of every kind of set that the subject has."""
        truth = summary.truth
        assert truth is not None
        if summary.num_alive == 0:
            return {}
        latent_M = summary.alive_A[summary.similarity_MA.argmax(axis=1)]
        rows = summary.num_rows
        mean_M = self._value_NM.mean(axis=0, dtype=np.float64)
        joint_FM = self._joint_FM.numpy() / rows - np.outer(self._code_F.numpy() / rows, mean_M)
        found: Values = {}
        for kind in dict.fromkeys(kind for kind, _ in truth.groups):
            slopes = []
            for members in (np.array(group) for group_kind, group in truth.groups if group_kind == kind):
                value_NG = self._value_NM[:, members].astype(np.float64)
                covariance_GG = np.cov(value_NG, rowvar=False, bias=True)
                joint_GG = joint_FM[np.ix_(latent_M[members], members)]
                slopes.append(responses(covariance_GG, joint_GG) * summary.norm_F[latent_M[members], None])
            if (share := leaked_share(slopes)) is not None:
                found[f"{_PREFIX[kind]}response_leakage"] = share
        return found
