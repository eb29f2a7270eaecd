"""Whether the decoder holds the true directions."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.base import Metric, MetricInfo, with_null
from vsae_search.evaluation.matching import match, similarity
from vsae_search.evaluation.null import mean_scores, prefixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Context, Values
    from vsae_search.evaluation.summary import Summary
    from vsae_search.evaluation.truth import Represented


def recovery_scores(cosine_MA: NDArray[np.float64], *, signed: bool) -> dict[str, float]:
    """Return the recovery numbers of a dictionary from its cosines with the true directions; 0 if it is empty."""
    keys = ("mmcs", "mmcs_reverse", "mcc", "recovered_fraction", "recovered_fraction_07", "uniqueness")
    if cosine_MA.shape[1] == 0:
        return dict.fromkeys(keys, 0.0)
    similarity_MA, absolute_MA = similarity(cosine_MA, signed=signed), np.abs(cosine_MA)
    matched_K = similarity_MA[match(similarity_MA)]
    num_features = len(cosine_MA)
    values = (
        similarity_MA.max(axis=1).mean(),
        similarity_MA.max(axis=0).mean(),
        absolute_MA[match(absolute_MA)].mean(),
        np.count_nonzero(matched_K > 0.9) / num_features,
        np.count_nonzero(matched_K > 0.7) / num_features,
        len(np.unique(similarity_MA.argmax(axis=1))) / num_features,
    )
    return dict(zip(keys, map(float, values), strict=True))


@lru_cache(maxsize=512)
def null_recovery(truth: Represented, num_latents: int, signed: bool) -> dict[str, float]:
    """Return the mean recovery numbers of random dictionaries; cached, callers must not change it."""
    return mean_scores(
        lambda w_AD: recovery_scores(truth.directions_MD @ w_AD.T, signed=signed),
        num_latents,
        truth.directions_MD.shape[1],
        num_features=truth.size,
    )


class Recovery(Metric):
    """Agreement between the M represented true directions g_i and the A alive unit decoder rows w_j.

    sim is the cosine; for a signed code its absolute value (MCC always takes the absolute value, as published). m is
    the Hungarian map that maximises total sim, one latent per feature at most. Each number comes with its mean over
    random dictionaries of as many latents: having more latents helps even if nothing is learnt. All are 0 when every
    latent is dead. Shapes: M represented features, A alive latents, K matched pairs.

    Reference: MMCS is Sharkey et al., "Taking features out of superposition with sparse autoencoders", 2022; MCC is
    Hyvarinen and Morioka, 2016, with the assignment taken over min(M, A) pairs.
    """

    infos = (
        *with_null(
            MetricInfo("mmcs", "1", "higher", "Mean over features of the largest sim with any latent."),
            MetricInfo("mmcs_reverse", "1", "higher", "Mean over alive latents of the largest sim with any feature."),
            MetricInfo("mcc", "1", "higher", "Mean |cos| of the pairs of the Hungarian map on |cos|, min(M, A) pairs."),
            MetricInfo(
                "recovered_fraction", "fraction of features", "higher", "Share of features with sim > 0.9 to m."
            ),
            MetricInfo(
                "recovered_fraction_07", "fraction of features", "higher", "Share of features with sim > 0.7 to m."
            ),
            MetricInfo(
                "uniqueness", "1", "higher", "Number of distinct latents that are the closest to some feature, / M."
            ),
        ),
        MetricInfo("feature_index", "array", "none", "Number of each represented feature in the subject, [M]."),
        MetricInfo("feature_latent", "array", "none", "Latent that m gives to each feature, [M]; -1 for none."),
        MetricInfo("feature_similarity", "array", "higher", "sim of each feature to that latent, [M]; 0 for none."),
    )

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether there are known features."""
        return context.truth is not None

    def result(self, summary: Summary) -> Values:
        """Return the numbers of the dictionary and of its random peers."""
        truth = summary.truth
        assert truth is not None
        found: Values = {**recovery_scores(summary.cosine_MA, signed=summary.signed)}
        found |= prefixed(null_recovery(truth, summary.num_alive, summary.signed))
        feature_K, latent_K = summary.match
        latent_M = np.full(truth.size, -1, dtype=np.int64)
        latent_M[feature_K] = summary.alive_A[latent_K]
        similarity_M = np.zeros(truth.size)
        similarity_M[feature_K] = summary.similarity_MA[feature_K, latent_K]
        found |= {"feature_index": truth.index_M, "feature_latent": latent_M, "feature_similarity": similarity_M}
        return found
