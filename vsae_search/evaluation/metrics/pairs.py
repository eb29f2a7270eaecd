"""What happens to features that occur together: do their latents stay apart?

Shapes: M represented features, A alive latents, D activation width, P pairs, G members of a group.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.base import Metric, MetricInfo, with_null
from vsae_search.evaluation.matching import similarity
from vsae_search.evaluation.null import mean_scores, prefixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Context, Values
    from vsae_search.evaluation.summary import Summary
    from vsae_search.evaluation.truth import Represented

_PREFIX = {"correlated": "", "anticorrelated": "anticorrelated_", "hierarchical": "hierarchical_"}
_CLOSE = 0.9
_MIN_SUM = 1e-6  # norm of g_a + g_b below which an antipodal pair has no composite direction


def pair_scores(truth: Represented, kind: str, w_AD: NDArray[np.float64], *, signed: bool) -> dict[str, float]:
    """Return leakage, merge rate and composite rate of the pairs of one kind for a dictionary of at least one row."""
    pairs_P2, group_P = truth.pairs(kind)
    g_MD = truth.directions_MD
    similarity_MA = similarity(g_MD @ w_AD.T, signed=signed)
    best_M = similarity_MA.argmax(axis=1)
    a_P, b_P = pairs_P2[:, 0], pairs_P2[:, 1]
    own_P = np.abs(np.sum(g_MD[a_P] * g_MD[b_P], axis=1))
    seen_P = [np.abs(np.sum(w_AD[best_M[p]] * g_MD[q], axis=1)) - own_P for p, q in ((a_P, b_P), (b_P, a_P))]
    composite_P = _composite(truth, w_AD, similarity_MA, pairs_P2, signed=signed)
    for number in np.unique(group_P):
        members = np.array([truth.groups[number][1]])
        if members.shape[1] > 2 and _composite(truth, w_AD, similarity_MA, members, signed=signed)[0]:
            composite_P |= group_P == number
    return {
        "leakage": float(np.mean(seen_P)),
        "merge_rate": float(np.mean(best_M[a_P] == best_M[b_P])),
        "composite_rate": float(np.mean(composite_P)),
    }


def _composite(
    truth: Represented,
    w_AD: NDArray[np.float64],
    similarity_MA: NDArray[np.float64],
    members_PG: NDArray[np.int64],
    *,
    signed: bool,
) -> NDArray[np.bool_]:
    """Return ``[P]``, for groups of G members each, whether a latent points along their sum rather than along one."""
    total_PD = truth.directions_MD[members_PG].sum(axis=1)
    norm_P = np.linalg.norm(total_PD, axis=1)
    exists_P = norm_P >= _MIN_SUM
    total_PD /= np.where(exists_P, norm_P, 1.0)[:, None]
    close_PA = similarity(total_PD @ w_AD.T, signed=signed)
    along_PA = (close_PA > _CLOSE) & (close_PA > similarity_MA[members_PG].max(axis=1))
    return np.asarray(exists_P & along_PA.any(axis=1))


@lru_cache(maxsize=512)
def null_pairs(truth: Represented, kind: str, num_latents: int, signed: bool) -> dict[str, float]:
    """Return the mean pair scores of random dictionaries; cached, callers must not change it."""
    return mean_scores(
        lambda w_AD: pair_scores(truth, kind, w_AD, signed=signed),
        num_latents,
        truth.directions_MD.shape[1],
        num_features=truth.size,
    )


def _infos() -> tuple[MetricInfo, ...]:
    """Spell the three numbers out for every kind of set."""
    return tuple(
        info
        for kind, prefix in _PREFIX.items()
        for info in with_null(
            MetricInfo(
                f"{prefix}leakage",
                "1",
                "lower",
                f"Mean over ordered pairs (a, b) within {kind} sets of |w_m(a) . g_b| - |g_a . g_b|.",
            ),
            MetricInfo(
                f"{prefix}merge_rate",
                "fraction of pairs",
                "lower",
                f"Share of pairs within {kind} sets whose two members share the closest latent.",
            ),
            MetricInfo(
                f"{prefix}composite_rate",
                "fraction of pairs",
                "lower",
                f"Share of pairs within {kind} sets with a latent along the sum of the members.",
            ),
        )
    )


class Pairs(Metric):
    """Mixing of features that were drawn together, over all pairs within the true sets of one kind.

    m(a) is the alive latent closest to feature a. Leakage is what the latent of one feature sees of the other beyond
    what the true directions share: 0 for the true directions. A pair has a composite latent when some latent has
    cosine above 0.9 with the normalised sum of the two (in sets of more than two also: of the whole set) and is
    closer to it than to any of its members. The unprefixed keys are about correlated sets, where merging is the
    failure to look for; other kinds carry their name. Left out: kinds that the subject does not have, and all of them
    when every latent is dead.

    Reference: the failure is the one described in "Sparse but Wrong" (arXiv 2508.16560) and, for hierarchical sets, in
    Chanin et al., "A is for Absorption", 2024; the three numbers are definitions of this project.
    """

    infos = _infos()

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether any features were drawn together."""
        return context.truth is not None and bool(context.truth.groups)

    def result(self, summary: Summary) -> Values:
        """Return the numbers of every kind that the subject has, each with its null."""
        truth, found = summary.truth, dict[str, float]()
        assert truth is not None
        if summary.num_alive == 0:
            return {}
        for kind in dict.fromkeys(kind for kind, _ in truth.groups):
            own = pair_scores(truth, kind, summary.w_AD, signed=summary.signed)
            null = prefixed(null_pairs(truth, kind, summary.num_alive, summary.signed))
            found |= {f"{_PREFIX[kind]}{key}": value for key, value in own.items()}
            found |= {f"null_{_PREFIX[kind]}{key[5:]}": value for key, value in null.items()}
        return {**found}
