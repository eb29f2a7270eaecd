"""Correlated presence of features through a Gaussian copula.

Latent normals with correlation rho are cut at thresholds, so that each feature keeps its own probability. The binary
correlation phi that results is smaller in magnitude than rho; it follows from the bivariate normal distribution and
can be inverted numerically, pair by pair.

Shapes: M features under the copula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, owens_t

from vsae_search.errors import UserInputError
from vsae_search.space.bounds import phi_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vsae_search.space import CopulaSpec

    Floats = NDArray[np.float64]

_BISECTIONS = 60  # halves [-1, 1] to below the spacing of doubles
_PHI_SLACK = 1e-9  # of negative targets: where phi is flat in rho, take the rho that is least extreme
_EIGENVALUE_FLOOR = 1e-6
_JITTER = 1e-6
_MOST_FEATURES = 4096
_ROUNDING = 1e-9


def bivariate_normal_cdf(h: Floats, k: Floats, rho: Floats) -> Floats:
    """Return P(X <= h, Y <= k) of standard normals with correlation ``rho``, element by element.

    Reference: Owen, "Tables for computing bivariate normal probabilities", 1956, equation 2.1, through Owen's T;
    exact at rho = -1 and 1, where the limits are taken.
    """
    h, k, rho = np.broadcast_arrays(h, k, rho)
    interior = np.abs(rho) < 1
    s = np.sqrt(np.where(interior, 1 - rho**2, 1.0))
    # An argument of exactly 0 makes the slope 0/0; the limit from above is finite and is what Owen's formula needs.
    a = np.where(h == 0, 1e-300, np.clip(h, -40, 40))
    b = np.where(k == 0, 1e-300, np.clip(k, -40, 40))
    with np.errstate(over="ignore"):
        slope_a, slope_b = (b / a - rho) / s, (a / b - rho) / s
    halves = np.where(a * b > 0, 0.0, np.where(np.sign(a) == np.sign(b), 0.0, 0.5))
    inside = 0.5 * (ndtr(a) + ndtr(b)) - owens_t(a, slope_a) - owens_t(b, slope_b) - halves
    limit = np.where(rho > 0, np.minimum(ndtr(h), ndtr(k)), np.maximum(ndtr(h) + ndtr(k) - 1, 0.0))
    return np.asarray(np.clip(np.where(interior, inside, limit), 0.0, 1.0), dtype=np.float64)


def bounds_of_pairs(p: Floats, q: Floats) -> tuple[Floats, Floats]:
    """Return the smallest and largest binary correlation of each pair, by ``phi_bounds``.

    Not a number where a variable is constant.
    """
    undefined = (np.nan, np.nan)
    pairs = zip(p.tolist(), q.tolist(), strict=True)
    found = [phi_bounds(a, b) if 0 < a < 1 and 0 < b < 1 else undefined for a, b in pairs]
    bounds_N2 = np.array(found, dtype=np.float64).reshape(-1, 2)
    return bounds_N2[:, 0], bounds_N2[:, 1]


def phi_of_rho(rho: Floats, p: Floats, q: Floats) -> Floats:
    """Return the binary correlation of two features cut out of normals with correlation ``rho``."""
    both = bivariate_normal_cdf(ndtri(p), ndtri(q), rho)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((both - p * q) / np.sqrt(p * (1 - p) * q * (1 - q)), dtype=np.float64)


def rho_of_phi(phi: Floats, p: Floats, q: Floats) -> Floats:
    """Return the normal correlation that gives binary correlation ``phi``, by bisection.

    Args:
        phi: Wanted binary correlations, within the bounds of the pair.
        p: Probabilities of the first feature of each pair, in (0, 1).
        q: Probabilities of the second feature of each pair, in (0, 1).

    Returns:
        Correlations in [-1, 1]; exactly 0 where ``phi`` is 0.
    """
    phi, p, q = np.broadcast_arrays(phi, p, q)
    target = phi + np.where(phi < 0, _PHI_SLACK, 0.0)
    low, high = np.full(phi.shape, -1.0), np.full(phi.shape, 1.0)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        below = phi_of_rho(middle, p, q) <= target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(np.where(phi == 0, 0.0, low), dtype=np.float64)


def nearest_correlation(matrix_MM: Floats) -> Floats:
    """Return a positive definite correlation matrix near ``matrix_MM``: eigenvalues clipped, diagonal rescaled to 1."""
    eigenvalues, vectors = np.linalg.eigh((matrix_MM + matrix_MM.T) / 2)
    clipped_MM = (vectors * np.maximum(eigenvalues, _EIGENVALUE_FLOOR)) @ vectors.T
    scale_M = 1 / np.sqrt(np.diag(clipped_MM))
    repaired_MM = clipped_MM * np.outer(scale_M, scale_M)
    np.fill_diagonal(repaired_MM, 1.0)
    return np.asarray(repaired_MM, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Copula:
    """A ready Gaussian copula.

    Attributes:
        factor_MM: Lower-triangular L with L L^T the correlation of the latent normals.
        threshold_M: A feature is present when its normal exceeds this.
        rho_MM: Correlation of the latent normals, after any repair.
        repaired: Whether the correlations asked for were not jointly possible and had to be changed.
        largest_change: Largest change of a rho by the repair; 0 without one.
    """

    factor_MM: Floats
    threshold_M: Floats
    rho_MM: Floats
    repaired: bool
    largest_change: float


def build_copula(spec: CopulaSpec, probability_M: Floats) -> Copula:
    """Turn the target of a search space into a copula over features with the given probabilities.

    Raises:
        UserInputError: The target has the wrong shape, or a correlation is out of its bounds.
    """
    number_of = len(probability_M)
    if number_of > _MOST_FEATURES:
        raise UserInputError(
            f"a copula over {number_of} features needs a matrix that is too large (at most {_MOST_FEATURES} features)",
            "Lower features.count, or describe the dependence with sets.",
        )
    if spec.rho is not None:
        target_MM = _target(spec.rho, spec.block_size, number_of, "rho")
        _check_rho(spec, number_of)
    else:
        assert spec.phi is not None, "a copula has exactly one of rho and phi"
        target_MM = _invert(_target(spec.phi, spec.block_size, number_of, "phi"), probability_M)
    repaired = bool(np.linalg.eigvalsh(target_MM)[0] < -1e-10)
    rho_MM = nearest_correlation(target_MM) if repaired else target_MM
    return Copula(
        factor_MM=_cholesky(rho_MM),
        threshold_M=-ndtri(probability_M),
        rho_MM=rho_MM,
        repaired=repaired,
        largest_change=float(np.abs(rho_MM - target_MM).max()) if repaired else 0.0,
    )


def _target(value: object, block_size: int | None, size: int, name: str) -> Floats:
    """Spell the wanted correlations out as a symmetric matrix with unit diagonal."""
    if isinstance(value, (int, float)):
        block_M = np.arange(size) // (block_size or size)
        target_MM = np.where(block_M[:, None] == block_M[None, :], float(value), 0.0)
        np.fill_diagonal(target_MM, 1.0)
    else:
        target_MM = np.array(value, dtype=np.float64)
        if target_MM.shape != (size, size):
            raise UserInputError(
                f"copula.{name} is a matrix of shape {target_MM.shape}, but {size} features are outside the sets",
                f"Give a {size} x {size} matrix: the copula covers the features that belong to no set.",
            )
        off = max(np.abs(target_MM - target_MM.T).max(), np.abs(np.diag(target_MM) - 1).max())
        if not off <= _ROUNDING:
            raise UserInputError(
                f"copula.{name} is not a correlation matrix", "It must be symmetric, with ones on its diagonal."
            )
        target_MM = (target_MM + target_MM.T) / 2
        np.fill_diagonal(target_MM, 1.0)
    if not np.all(np.abs(target_MM) <= 1):
        raise UserInputError(f"copula.{name} holds a correlation outside [-1, 1]")
    return target_MM


def _check_rho(spec: CopulaSpec, size: int) -> None:
    """Refuse an equicorrelation that no set of normals can have."""
    block = min(spec.block_size or size, size)
    if isinstance(spec.rho, (int, float)) and block > 1 and spec.rho < -1 / (block - 1) - 1e-12:
        raise UserInputError(
            f"copula.rho = {spec.rho:g} is impossible among {block} features that share one correlation: "
            f"it must be at least -1/({block} - 1) = {-1 / (block - 1):.4g}",
            "Use a smaller block_size, a larger rho, or an anticorrelated set.",
        )


def _invert(phi_MM: Floats, probability_M: Floats) -> Floats:
    """Turn binary correlations into correlations of normals, after checking the bounds of each pair."""
    i, j = np.triu_indices(len(probability_M), k=1)
    wanted, p, q = phi_MM[i, j], probability_M[i], probability_M[j]
    # Few pairs are distinct (often one), and what is done with each is expensive.
    distinct, where = np.unique(np.stack([wanted, p, q], axis=1), axis=0, return_inverse=True)
    low, high = bounds_of_pairs(distinct[:, 1], distinct[:, 2])
    value = distinct[:, 0]
    fine = (value == 0) | ((value >= low - 1e-12) & (value <= high + 1e-12))  # false where a bound is not a number
    if not fine.all():
        bad = int(np.argmin(fine[where]))
        bounds = low[where[bad]], high[where[bad]]
        raise UserInputError(_out_of_bounds(int(i[bad]), int(j[bad]), wanted[bad], p[bad], q[bad], *bounds))
    varied = distinct[:, 0] != 0
    rho = np.zeros(len(distinct))
    rho[varied] = rho_of_phi(*distinct[varied].T)
    rho_MM = np.eye(len(probability_M))
    rho_MM[i, j] = rho_MM[j, i] = rho[where]
    return rho_MM


def _out_of_bounds(i: int, j: int, phi: float, p: float, q: float, low: float, high: float) -> str:
    """Say which pair cannot have its correlation, and what it can have."""
    pair = f"copula.phi = {phi:g} is impossible for features {i} and {j} of the copula"
    if np.isnan(low):
        return f"{pair}: one of them is always or never present, so that its correlation is undefined"
    rule = f" (-p/(1-p) for p = {p:g})" if p == q and p <= 0.5 else f" (probabilities {p:g} and {q:g})"
    return f"{pair}: it must lie between {low:.4g} and {high:.4g}{rule}"


def _cholesky(rho_MM: Floats) -> Floats:
    """Factor a correlation matrix; one on the edge of being singular gets a jitter that keeps its diagonal at 1."""
    try:
        factor_MM = np.linalg.cholesky(rho_MM)
    except np.linalg.LinAlgError:
        factor_MM = np.linalg.cholesky((rho_MM + _JITTER * np.eye(len(rho_MM))) / (1 + _JITTER))
    return np.asarray(factor_MM, dtype=np.float64)
