from __future__ import annotations

import numpy as np
import pytest
from evaluation_standins import Fixed, Squares, random_unit, run, sparse_rows, truth_of

from vsae_search.evaluation.metrics.responses import leaked_share, responses
from vsae_search.subjects import Rows

KEYS = ("response_leakage", "anticorrelated_response_leakage", "hierarchical_response_leakage")


def together(num_rows=500, seed=0):
    """Two features that are always present together, one that is independent; the values are."""
    generator = np.random.default_rng(seed)
    values = generator.random((num_rows, 3), dtype=np.float32) * 0.9 + 0.1
    values[:, :2] *= generator.random((num_rows, 1)) < 0.3
    values[:, 2] *= generator.random(num_rows) < 0.3
    return Rows(values @ np.eye(3, dtype=np.float32), values)


def leak(codes_NF, rows, groups, W_dec=None, **options):
    sae = Fixed(codes_NF, np.eye(3) if W_dec is None else W_dec)
    return run(sae, rows, Squares(truth_of(np.eye(3), groups)), only=KEYS, **options).metrics


def test_slopes_of_codes_that_are_linear_in_the_values():
    rows = together()
    x = rows.features_NM
    # the latent of 0 takes a fifth as much of 1, that of 1 takes three tenths of 0, whatever 2 does
    codes = np.stack([2 * x[:, 0] + 0.4 * x[:, 1] + 1, x[:, 1] + 0.3 * x[:, 0] + 0.5 * x[:, 2], x[:, 2]], axis=1)
    found = leak(codes, rows, [("correlated", (0, 1))])
    # feature 2 is independent of the pair, but on a finite sample not exactly
    assert found["response_leakage"] == pytest.approx((0.4 + 0.3) / (2 + 1), abs=0.02)
    assert set(found) == {"response_leakage"}


def test_it_is_exact_when_nothing_else_varies():
    rows = together()
    x = rows.features_NM
    codes = np.stack([2 * x[:, 0] + 0.4 * x[:, 1], x[:, 1] - 0.3 * x[:, 0], x[:, 2]], axis=1)
    codes -= codes.min()
    found = leak(codes, rows, [("correlated", (0, 1))])
    assert found["response_leakage"] == pytest.approx(0.7 / 3, rel=1e-4)  # the sign of a response does not matter
    scaled = leak(codes / [4, 1, 1], rows, [("correlated", (0, 1))], W_dec=np.diag([4.0, 1, 1]))
    assert scaled["response_leakage"] == pytest.approx(0.7 / 3, rel=1e-4)  # nor how code and decoder share the scale


def test_limits_are_0_for_own_features_and_1_for_a_shared_latent():
    rows = together()
    x = rows.features_NM
    assert leak(x, rows, [("correlated", (0, 1))])["response_leakage"] == pytest.approx(0, abs=1e-5)
    shared = np.zeros_like(x)
    shared[:, 0] = x[:, 0] + x[:, 1]
    merged = leak(shared, rows, [("anticorrelated", (0, 1))], W_dec=[[1, 1, 0], [0, 0, 1], [0, 0, 1]])
    assert merged == {"anticorrelated_response_leakage": pytest.approx(1, rel=1e-4)}


def test_regression_agrees_with_least_squares_and_survives_features_that_never_vary():
    generator = np.random.default_rng(1)
    values = generator.random((300, 4))
    codes = np.maximum(values @ generator.standard_normal((4, 4)), 0)
    design = np.column_stack([np.ones(300), values])
    expected = np.linalg.lstsq(design, codes, rcond=None)[0][1:].T
    joint = np.cov(codes.T, values.T, bias=True)[:4, 4:]
    assert responses(np.cov(values.T, bias=True), joint) == pytest.approx(expected)
    assert responses(np.diag([1.0, 0.0]), np.array([[0.5, 0.0], [0.0, 0.0]])).tolist() == [[0.5, 0], [0, 0]]


def test_share_is_a_ratio_of_means_over_all_sets():
    two = np.array([[1.0, 0.2], [-0.4, 2.0]])
    three = np.array([[1.0, 0.1, 0.2], [0.3, 1.0, 0.0], [0.0, 0.0, 4.0]])
    assert leaked_share([two]) == pytest.approx(0.6 / 3)
    assert leaked_share([two, three]) == pytest.approx((0.6 + 0.6) / (3 + 2 * 6))
    assert leaked_share([np.array([[0.0, 1.0], [1.0, 0.0]])]) is None
    assert leaked_share([]) is None


def test_chunks_change_nothing_and_dead_autoencoders_have_none():
    directions = random_unit(6, 4)
    rows = sparse_rows(directions, num_rows=300)
    subject = Squares(truth_of(directions, [("correlated", (0, 1)), ("hierarchical", (2, 3, 4))]))
    codes = np.maximum(rows.x_ND @ directions.T, 0)
    whole, pieces = (
        run(Fixed(codes, directions), rows, subject, only=KEYS, chunk_rows=size).metrics for size in (300, 7)
    )
    assert set(whole) == {KEYS[0], KEYS[2]}
    assert whole == pytest.approx(pieces, rel=1e-5)
    assert run(Fixed(np.zeros((300, 6)), directions), rows, subject, only=KEYS).metrics == {}
