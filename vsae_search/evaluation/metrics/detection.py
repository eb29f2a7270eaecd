"""Whether the latent that stands for a feature fires when the feature is present."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from vsae_search.evaluation.base import Metric, MetricInfo, with_null
from vsae_search.evaluation.matching import match, similarity
from vsae_search.evaluation.null import random_dictionaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary
    from vsae_search.evaluation.truth import Represented

    Map = tuple[NDArray[np.int64], NDArray[np.int64]]

_KEPT_NUMBERS = 1 << 24  # codes kept for AUROC: 64 MiB


@lru_cache(maxsize=512)
def null_maps(truth: Represented, num_latents: int, signed: bool) -> tuple[Map, ...]:
    """Return the Hungarian maps of random dictionaries."""
    drawn = random_dictionaries(num_latents, truth.directions_MD.shape[1], num_features=truth.size)
    return tuple(match(similarity(truth.directions_MD @ w_AD.T, signed=signed)) for w_AD in drawn)


def detection_scores(
    both_MA: NDArray[np.float64], present_M: NDArray[np.float64], fired_A: NDArray[np.float64], pairs: Map
) -> NDArray[np.float64]:
    """Return precision, recall and F1 ``[3, M]`` of each feature under a map; 0 for a feature without a latent.

    Args:
        both_MA: Rows on which the feature is present and the latent fires.
        present_M: Rows on which the feature is present.
        fired_A: Rows on which the latent fires, at least 1 each.
        pairs: Features and their latents.
    """
    feature_K, latent_K = pairs
    scores = np.zeros((3, len(present_M)))
    hits_K = both_MA[feature_K, latent_K]
    scores[0, feature_K] = hits_K / fired_A[latent_K]
    scores[1, feature_K] = hits_K / np.maximum(present_M[feature_K], 1)
    scores[2, feature_K] = 2 * hits_K / (present_M[feature_K] + fired_A[latent_K])
    return scores


def auroc(strength_N: NDArray[np.float32], present_N: NDArray[np.bool_]) -> float | None:
    """Return the probability that a row with the feature has the larger code, ties counting one half.

    Only the codes above zero are sorted, which is what makes it cheap for a sparse code.

    Returns:
        ``None`` when the feature is present everywhere or nowhere.
    """
    num_present = int(np.count_nonzero(present_N))
    num_absent = len(present_N) - num_present
    if num_present == 0 or num_absent == 0:
        return None
    fired_N = strength_N > 0
    with_feature = strength_N[fired_N & present_N]
    without = np.sort(strength_N[fired_N & ~present_N])
    silent_absent = num_absent - len(without)
    twice_below = np.searchsorted(without, with_feature, "left") + np.searchsorted(without, with_feature, "right")
    wins = twice_below.sum() / 2 + len(with_feature) * silent_absent
    wins += (num_present - len(with_feature)) * silent_absent / 2
    return float(wins / (num_present * num_absent))


class Detection(Metric):
    """Present features against firing latents, under the Hungarian map of the directions (see recovery).

    A latent detects its feature on a row when it fires (f > 0; f != 0 for a signed code) while the feature is present.
    Precision, recall and F1 are computed for each represented feature that is present at least once, 0 for one without
    a latent, and averaged without weights. The null keeps the codes and maps the features by random directions.
    AUROC needs no threshold; it is averaged over matched features, on the first rows if more than 2^24 codes would
    have to be kept, and left out when no feature is both present and absent there. Chance is 0.5.

    Reference: per-feature detection as in the ground-truth evaluations of synthetic-data benchmarks; F1 is the
    harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).
    """

    infos = (
        *with_null(
            MetricInfo(
                "precision", "1", "higher", "Mean over features of the share of firings with the feature present."
            ),
            MetricInfo(
                "recall", "1", "higher", "Mean over features of the share of its rows on which its latent fires."
            ),
            MetricInfo("f1", "1", "higher", "Mean over features of 2 TP / (2 TP + FP + FN)."),
        ),
        MetricInfo(
            "auroc", "1", "higher", "Mean over matched features of P(code with it > code without it) + P(equal) / 2."
        ),
        MetricInfo("feature_precision", "array", "higher", "Precision of each represented feature, [M]."),
        MetricInfo("feature_recall", "array", "higher", "Recall of each represented feature, [M]."),
        MetricInfo("feature_f1", "array", "higher", "F1 of each represented feature, [M]."),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.truth is not None
        self._both_FM = np.zeros((context.d_sae, context.truth.size))
        self._present_M = np.zeros(context.truth.size)
        self._room = max(1, _KEPT_NUMBERS // context.d_sae)
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether it is known which features are present."""
        return context.truth is not None and context.rows.features_NM is not None

    def update(self, batch: Batch) -> None:
        """Count joint occurrences; a float32 product of zeros and ones is exact for any chunk."""
        assert batch.present_BM is not None
        self._both_FM += (batch.fired_BF.T.to(torch.float32) @ batch.present_BM).cpu().numpy()
        self._present_M += batch.present_BM.sum(dim=0, dtype=torch.float64).cpu().numpy()
        if self._room:
            kept_BF = batch.strength_BF[: self._room].cpu().numpy()
            self._kept.append((kept_BF, batch.present_BM[: self._room].cpu().numpy() > 0))
            self._room -= len(kept_BF)

    def result(self, summary: Summary) -> Values:
        """Return the scores under the map of the decoder and, as their null, under random maps."""
        truth, seen_M = summary.truth, self._present_M > 0
        assert truth is not None
        both_MA, fired_A = self._both_FM[summary.alive_A].T, summary.fired_F[summary.alive_A]
        scores = detection_scores(both_MA, self._present_M, fired_A, summary.match)
        found: Values = {
            f"feature_{name}": row for name, row in zip(("precision", "recall", "f1"), scores, strict=True)
        }
        if seen_M.any():
            maps = null_maps(truth, summary.num_alive, summary.signed)
            null = np.mean([detection_scores(both_MA, self._present_M, fired_A, pairs) for pairs in maps], axis=0)
            for number, name in enumerate(("precision", "recall", "f1")):
                found[name] = float(scores[number, seen_M].mean())
                found[f"null_{name}"] = float(null[number, seen_M].mean())
        areas = self._areas(summary)
        if areas:
            found["auroc"] = float(np.mean(areas))
        return found

    def _areas(self, summary: Summary) -> list[float]:
        """Return the AUROC of every matched feature for which it is defined."""
        feature_K, latent_K = summary.match
        columns = summary.alive_A[latent_K]
        strength_KN = np.concatenate([codes[:, columns] for codes, _ in self._kept]).T.copy()
        present_KN = np.concatenate([present[:, feature_K] for _, present in self._kept]).T.copy()
        areas = (auroc(strength_N, present_N) for strength_N, present_N in zip(strength_KN, present_KN, strict=True))
        return [area for area in areas if area is not None]
