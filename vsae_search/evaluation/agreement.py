"""Agreement between two labellings of the same things.

Shapes: N things, R and C numbers of labels in the first and second labelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Entropy-based agreement of found clusters with true labels, each between 0 and 1 (AMI may be slightly negative).

    Attributes:
        homogeneity: 1 - H(true | found) / H(true): clusters hold one label only; 1 if there is one label.
        completeness: 1 - H(found | true) / H(found): a label is in one cluster only; 1 if there is one cluster.
        v_measure: Harmonic mean of the two.
        ami: (MI - E[MI]) / (mean(H(true), H(found)) - E[MI]): corrected for chance; 1 if both are trivial.
    """

    homogeneity: float
    completeness: float
    v_measure: float
    ami: float


def agreement(true_N: NDArray[np.int64], found_N: NDArray[np.int64]) -> Agreement:
    """Compare found clusters with true labels.

    Reference: Rosenberg and Hirschberg, "V-measure", 2007; Vinh, Epps and Bailey, "Information theoretic measures for
    clusterings comparison", 2010 (arithmetic mean, permutation model).
    """
    table_RC = _contingency(true_N, found_N)
    row_R, column_C, total = table_RC.sum(axis=1), table_RC.sum(axis=0), float(table_RC.sum())
    h_true, h_found = entropy(row_R), entropy(column_C)
    mutual = max(0.0, h_true + h_found - entropy(table_RC.ravel()))
    homogeneity = mutual / h_true if h_true > 0 else 1.0
    completeness = mutual / h_found if h_found > 0 else 1.0
    both = homogeneity + completeness
    expected = expected_mutual_information(row_R, column_C, total)
    room = 0.5 * (h_true + h_found) - expected
    trivial = len(row_R) == len(column_C) and len(row_R) in (1, int(total))
    return Agreement(
        homogeneity=homogeneity,
        completeness=completeness,
        v_measure=2 * homogeneity * completeness / both if both > 0 else 0.0,
        ami=1.0 if trivial else (mutual - expected) / max(room, np.finfo(np.float64).eps),
    )


def entropy(count: NDArray[np.float64]) -> float:
    """Return the entropy, in nats, of the distribution proportional to non-negative counts."""
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum()) if len(share) > 1 else 0.0


def expected_mutual_information(row_R: NDArray[np.float64], column_C: NDArray[np.float64], total: float) -> float:
    """Return the mean mutual information of two labellings with these label sizes, over all permutations.

    The number of things in a cell is hypergeometric. Equal sizes give equal terms, so each pair of sizes is summed
    once. Reference: Vinh, Epps and Bailey, 2010, equation 24a.
    """
    rows, row_times = np.unique(row_R, return_counts=True)
    columns, column_times = np.unique(column_C, return_counts=True)
    expected = 0.0
    for a, a_times in zip(rows.tolist(), row_times.tolist(), strict=True):
        for b, b_times in zip(columns.tolist(), column_times.tolist(), strict=True):
            n = np.arange(max(1.0, a + b - total), min(a, b) + 1)
            log_probability = _log_choose(a, n) + _log_choose(total - a, b - n) - _log_choose(total, b)
            terms = n / total * np.log(total * n / (a * b)) * np.exp(log_probability)
            expected += a_times * b_times * float(terms.sum())
    return expected


def _log_choose(n: float, k: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1))


def _contingency(true_N: NDArray[np.int64], found_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Count how often each pair of labels occurs together; only labels that occur have a row or column."""
    _, row_N = np.unique(true_N, return_inverse=True)
    _, column_N = np.unique(found_N, return_inverse=True)
    table_RC = np.zeros((int(row_N.max()) + 1, int(column_N.max()) + 1))
    np.add.at(table_RC, (row_N, column_N), 1.0)
    return table_RC
