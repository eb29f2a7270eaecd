from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr, ndtri

from vsae_search.errors import UserInputError
from vsae_search.space import CopulaSpec
from vsae_search.subjects.copula import (
    bivariate_normal_cdf,
    bounds_of_pairs,
    build_copula,
    nearest_correlation,
    phi_of_rho,
    rho_of_phi,
)


def by_quadrature(h: float, k: float, rho: float) -> float:
    def density(x: float) -> float:
        return float(np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * ndtr((k - rho * x) / np.sqrt(1 - rho**2)))

    return quad(density, -12, h, epsabs=1e-13, epsrel=1e-12, limit=400)[0]


@pytest.mark.parametrize("rho", [-0.95, -0.4, 0.0, 0.3, 0.99])
@pytest.mark.parametrize(("h", "k"), [(-1.6, -1.6), (-2.3, 0.4), (0.0, 0.0), (0.0, -1.0), (1.2, 0.0), (0.7, 2.1)])
def test_bivariate_normal_cdf_agrees_with_quadrature(h, k, rho):
    got = float(bivariate_normal_cdf(np.array(h), np.array(k), np.array(rho)))
    assert got == pytest.approx(by_quadrature(h, k, rho), abs=1e-11)


def test_bivariate_normal_cdf_limits():
    h, k = np.array([-1.0, -1.0, 0.5, 0.5, np.inf]), np.array([-0.5, -0.5, 0.6, 0.6, 0.3])
    rho = np.array([1.0, -1.0, 1.0, -1.0, 0.4])
    expected = [ndtr(-1.0), 0.0, ndtr(0.5), ndtr(0.5) + ndtr(0.6) - 1, ndtr(0.3)]
    np.testing.assert_allclose(bivariate_normal_cdf(h, k, rho), expected, atol=1e-14)
    assert float(bivariate_normal_cdf(np.array(0.0), np.array(0.0), np.array(0.5))) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, [0.046, 0.121, 0.371, 0.667]),
        (0.05, [0.098, 0.204, 0.469, 0.728]),
        (0.1, [0.129, 0.249, 0.514, 0.755]),
        (0.2, [0.163, 0.295, 0.556, 0.779]),
    ],
)
def test_phi_of_rho_table(p, expected):
    got = phi_of_rho(np.array([0.3, 0.5, 0.8, 0.95]), np.array(p), np.array(p))
    np.testing.assert_allclose(got, expected, atol=5.1e-4)


def test_phi_round_trip_with_unequal_marginals():
    phi = np.array([-0.02, 0.0, 0.1, 0.3, 0.45, 0.6])
    p, q = np.array([0.05, 0.1, 0.02, 0.2, 0.5, 0.3]), np.array([0.1, 0.1, 0.05, 0.1, 0.5, 0.3])
    rho = rho_of_phi(phi, p, q)
    np.testing.assert_allclose(phi_of_rho(rho, p, q), phi, atol=2e-9)
    assert rho[1] == 0
    assert (np.sign(rho) == np.sign(phi)).all()


def test_bounds_of_pairs():
    low, high = bounds_of_pairs(np.array([0.05, 0.2, 0.7, 1.0, 0.3]), np.array([0.05, 0.1, 0.7, 0.5, 0.0]))
    assert low[0] == pytest.approx(-0.05 / 0.95)
    assert high[0] == pytest.approx(1.0)
    assert high[1] == pytest.approx((0.1 - 0.02) / np.sqrt(0.2 * 0.8 * 0.1 * 0.9))
    assert low[2] == pytest.approx((0.4 - 0.49) / 0.21)
    assert np.isnan(low[3:]).all()
    assert np.isnan(high[3:]).all()


def test_nearest_correlation_repairs_what_is_impossible():
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1.0]])
    assert np.linalg.eigvalsh(impossible)[0] < -0.1
    repaired = nearest_correlation(impossible)
    np.testing.assert_array_equal(np.diag(repaired), 1.0)
    np.testing.assert_allclose(repaired, repaired.T)
    assert np.linalg.eigvalsh(repaired)[0] > 0
    assert (np.sign(repaired) == np.sign(impossible)).all()
    fine = np.array([[1, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(nearest_correlation(fine), fine, atol=1e-12)


def test_a_copula_records_its_repair():
    matrix = ((1.0, 0.9, -0.9), (0.9, 1.0, 0.9), (-0.9, 0.9, 1.0))
    copula = build_copula(CopulaSpec.model_construct(rho=matrix, phi=None, block_size=None), np.full(3, 0.1))
    assert copula.repaired
    assert copula.largest_change == pytest.approx(np.abs(copula.rho_MM - np.array(matrix)).max())
    np.testing.assert_allclose(copula.factor_MM @ copula.factor_MM.T, copula.rho_MM, atol=1e-12)
    assert not build_copula(CopulaSpec(rho=0.5), np.full(3, 0.1)).repaired


def test_singular_correlations_are_jittered_not_refused():
    copula = build_copula(CopulaSpec(rho=1.0), np.full(4, 0.1))
    np.testing.assert_allclose(copula.factor_MM @ copula.factor_MM.T, np.ones((4, 4)), atol=2e-6)
    np.testing.assert_allclose((copula.factor_MM**2).sum(axis=1), 1.0, atol=1e-12)
    assert not copula.repaired


def test_blocks_and_thresholds():
    p = np.array([0.1, 0.1, 0.2, 0.2, 0.3])
    copula = build_copula(CopulaSpec(phi=0.3, block_size=2), p)
    rho = copula.rho_MM
    assert rho[0, 2] == rho[1, 3] == rho[2, 4] == 0
    for i, j in ((0, 1), (2, 3)):
        assert float(phi_of_rho(rho[i, j], p[i], p[j])) == pytest.approx(0.3, abs=1e-8)
    np.testing.assert_allclose(copula.threshold_M, ndtri(1 - p))


def spec(**values):
    return CopulaSpec.model_construct(**{"rho": None, "phi": None, "block_size": None, **values})


@pytest.mark.parametrize(
    ("copula", "probability", "words"),
    [
        (spec(phi=-0.2), [0.05, 0.05], ["-0.05263", "-p/(1-p)", "features 0 and 1"]),
        (spec(phi=0.9), [0.1, 0.2], ["0.6667", "probabilities 0.1 and 0.2"]),
        (spec(phi=0.1), [1.0, 0.2], ["undefined"]),
        (spec(rho=-0.5), [0.1, 0.1, 0.1, 0.1], ["-1/(4 - 1)", "-0.3333"]),
        (spec(rho=1.5), [0.1, 0.1], ["outside [-1, 1]"]),
        (spec(rho=((1.0, 0.2), (0.2, 1.0))), [0.1, 0.1, 0.1], ["(2, 2)", "3 features"]),
        (spec(rho=((1.0, 0.2), (0.3, 1.0))), [0.1, 0.1], ["not a correlation matrix"]),
    ],
)
def test_impossible_correlations_are_refused_with_their_bound(copula, probability, words):
    with pytest.raises(UserInputError) as caught:
        build_copula(copula, np.array(probability))
    for word in words:
        assert word in caught.value.message


def test_the_lowest_possible_phi_is_accepted():
    p = np.full(2, 0.2)
    copula = build_copula(CopulaSpec(phi=-0.25), p)
    assert float(phi_of_rho(copula.rho_MM[0, 1], p[0], p[1])) == pytest.approx(-0.25, abs=2e-9)
