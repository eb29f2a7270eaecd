"""Which hyper-parameters decide: PED-ANOVA, with what chance alone would give beside it.

PED-ANOVA compares the density of a hyper-parameter among the best trials with its density among all of them; the
divergence of the two is its importance. Only the order of the scores counts. The estimate is the one of
``optuna.importance.PedAnovaImportanceEvaluator`` for a space without conditions, in arrays: it takes a tenth of the
time, so that it can be repeated on parts of the trials (how firm is it?) and on shuffled scores (how large would it be
if nothing mattered?).

Shapes: N trials, P hyper-parameters, G cells.

Reference: Watanabe, Bansal & Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023 (arXiv 2304.10255).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

QUANTILE = 0.25
"""Share of the trials that counts as the best."""
PARTS, PART = 20, 0.75
"""How often the estimate is repeated on random parts of the trials, and the share of trials in each."""
SHUFFLES = 19
"""How often it is repeated on shuffled scores; to exceed all of them has a chance of 1 in 20."""
SEED = 0
_PRIOR = 1.0  # weight of the even density that is mixed in
_NARROWEST = 0.5 / 1.64  # kernel width in cells that keeps 90 % of it in its own cell
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Values:
    """One hyper-parameter of all trials.

    Attributes:
        cell_N: Cell in which each trial's value lies [N], from 0.
        cells: Number of cells, G.
        ordered: Whether neighbouring cells are alike.
    """

    cell_N: NDArray[np.int64]
    cells: int
    ordered: bool


@dataclass(frozen=True, eq=False)
class Importance:
    """Importance of every hyper-parameter for one score.

    Attributes:
        share_P: Share of the sum of all divergences [P].
        low_P: 10 % quantile of the shares on parts of the trials [P].
        high_P: Their 90 % quantile [P].
        beats_chance_P: Whether the divergence is larger than with every shuffled score [P].
    """

    share_P: NDArray[np.float64]
    low_P: NDArray[np.float64]
    high_P: NDArray[np.float64]
    beats_chance_P: NDArray[np.bool_]


def cells_of(place_N: Sequence[float], cells: int) -> NDArray[np.int64]:
    """Nearest of ``cells`` evenly spread points between 0 and 1 for each place [N]; half way goes down."""
    cell_N = np.ceil(np.asarray(place_N, dtype=np.float64) * (cells - 1) - 0.5)
    return np.clip(cell_N, 0, cells - 1).astype(np.int64)


def divergences(values: Sequence[Values], score_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """PED-ANOVA without normalisation.

    Args:
        values: Hyper-parameters, P of them.
        score_N: Score of each trial [N], the lower the better; finite.

    Returns:
        Pearson divergence of the best trials' density from that of all trials [P]; 0 when all trials are equally good.
    """
    return _Trials(values).divergences(score_N)


class _Trials:
    """Trials whose densities over all of them are known, for any number of scores."""

    def __init__(self, values: Sequence[Values]) -> None:
        self.pairs = [(one, density(one.cell_N, one)) for one in values]

    def divergences(self, score_N: NDArray[np.float64]) -> NDArray[np.float64]:
        worst_of_best = math.ceil(QUANTILE * len(score_N)) - 1
        best_N = score_N <= np.partition(score_N, worst_of_best)[worst_of_best]
        if best_N.all():
            return np.zeros(len(self.pairs))
        return np.array(
            [every_G @ (density(one.cell_N[best_N], one) / every_G - 1) ** 2 for one, every_G in self.pairs]
        )


def importances(values: Sequence[Values], scores_KN: NDArray[np.float64]) -> list[Importance]:
    """Shares, how firm they are, and whether chance can be the reason.

    Args:
        values: Hyper-parameters, P of them.
        scores_KN: Scores of each trial [K, N], the lower the better; finite.

    Returns:
        The importance for each score; parts and shuffles are the same for all of them.
    """
    rng = np.random.default_rng(SEED)
    num = scores_KN.shape[1]
    parts = [np.sort(rng.permutation(num)[: math.ceil(PART * num)]) for _ in range(PARTS)]
    shuffles = [rng.permutation(num) for _ in range(SHUFFLES)]
    whole = _Trials(values)
    trials = [(_Trials([Values(one.cell_N[kept], one.cells, one.ordered) for one in values]), kept) for kept in parts]
    found = []
    for score_N in scores_KN:
        share_P = _shares(divergence_P := whole.divergences(score_N))
        parts_P = np.stack([_shares(part.divergences(score_N[kept])) for part, kept in trials])
        chance_P = np.max([whole.divergences(score_N[order]) for order in shuffles], axis=0)
        low_P, high_P = np.quantile(parts_P, (0.1, 0.9), axis=0)
        found.append(Importance(share_P, low_P, high_P, divergence_P > chance_P))
    return found


def density(cell_N: NDArray[np.int64], values: Values) -> NDArray[np.float64]:
    """Smoothed density of a hyper-parameter over its cells [G].

    Ordered cells get truncated normal kernels of the width of Scott's rule, others a weight that every cell shares.
    One even kernel of the weight of a single trial is mixed in.
    """
    count_G = np.bincount(cell_N, minlength=values.cells).astype(np.float64)
    smooth_G = _kernels(count_G) if values.ordered else _shared(count_G)
    return np.asarray(smooth_G / (count_G.sum() + _PRIOR) + _TINY)


def _shared(count_G: NDArray[np.float64]) -> NDArray[np.float64]:
    even = _PRIOR / (np.count_nonzero(count_G) + 1)
    mixed_G = (count_G + even * count_G.sum()) / (1 + even * len(count_G))
    return np.asarray(mixed_G + _PRIOR / len(count_G))


def _kernels(count_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of kernels on the observed cells, and of a wide one in the middle."""
    size = len(count_G)
    border, wide_G = _grid(size)
    below = ndtr(border / _width(count_G))
    # What a kernel puts between the outer borders of all cells; the last cell sees them at the low end of `border`.
    inside_G = (below[size:] - below[:size])[::-1]
    smooth_G = np.convolve(count_G / inside_G, np.diff(below))[size - 1 : 2 * size - 1]
    return np.asarray(smooth_G + wide_G)


@cache
def _grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Borders of cells as distances from any cell's centre [2 G], and the even kernel [G]."""
    border = np.arange(1 - size, size + 1, dtype=np.float64) - 0.5
    wide_G = np.diff(ndtr((np.arange(size + 1) - 0.5 - (size - 1) / 2) / size))
    return border, np.asarray(_PRIOR * wide_G / wide_G.sum())


def _width(count_G: NDArray[np.float64]) -> float:
    """Scott's rule for the observed cells with their weights."""
    seen = np.flatnonzero(count_G)
    weight = count_G[seen]
    upto = np.cumsum(weight)
    total = float(upto[-1])
    mean = float(seen @ weight) / total
    deviation = math.sqrt(float((seen - mean) ** 2 @ weight) / max(1.0, total - 1))
    low = seen[np.searchsorted(upto, total // 4, side="left")]
    high = seen[min(len(seen) - 1, int(np.searchsorted(upto, total * 3 // 4, side="right")))]
    return float(max(1.059 * min((high - low) / 1.34, deviation) * total**-0.2, _NARROWEST))


def _shares(divergence_P: NDArray[np.float64]) -> NDArray[np.float64]:
    total = divergence_P.sum()
    return np.asarray(divergence_P / total) if total > 0 else np.zeros_like(divergence_P)
