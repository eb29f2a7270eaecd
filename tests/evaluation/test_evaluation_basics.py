"""Sparsity, reconstruction and splice against numbers worked out by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_standins import Fixed, Linear, Squares, random_unit, run

from vsae_search.evaluation.metrics.reconstruction import Spread
from vsae_search.subjects import Baseline, Rows


def test_sparsity_by_hand():
    codes = np.zeros((200, 4))
    codes[:, 0] = 1  # always
    codes[:21, 1] = 0.5  # 10.5 %
    codes[:2, 2] = 1e-30  # 1 %, not above it
    rows = Rows(np.ones((200, 3), dtype=np.float32))
    found = run(Fixed(codes, np.ones((4, 3))), rows)
    assert found.metrics["l0"] == (200 + 21 + 2) / 200
    assert found.metrics["dead_fraction"] == 0.25
    assert found.metrics["dense_fraction"] == 0.5
    assert found.metrics["frequent_fraction"] == 0.5
    np.testing.assert_array_equal(found.arrays["density"], [1, 0.105, 0.01, 0])
    counts, edges = found.arrays["density_histogram"], found.arrays["density_histogram_edges"]
    assert counts.sum() == 3
    for density in (1, 0.105, 0.01):
        place = np.flatnonzero((edges[:-1] <= np.log10(density) + 1e-12) & (np.log10(density) - 1e-12 <= edges[1:]))
        assert counts[place].sum() >= 1


def test_negative_codes_count_as_firing():
    codes = np.array([[1.0, 0.0], [-1.0, 2.0]])
    found = run(Fixed(codes, np.eye(2)), Rows(np.ones((2, 2), dtype=np.float32))).metrics
    assert found["l0"] == 1.5


def test_reconstruction_by_hand():
    # x = (3, 4), (0, 0), (0, 2); xhat = (3, 0), (1, 0), (0, 1)
    rows = Rows(np.array([[3, 4], [0, 0], [0, 2]], dtype=np.float32))
    found = run(Fixed([[3, 0], [1, 0], [0, 1]], np.eye(2)), rows).metrics
    error, total = 16 + 1 + 1, 25 + 0 + 4
    centred = total - 3 * (1**2 + 2**2)  # the mean row is (1, 2)
    assert found["nmse"] == pytest.approx(error / total, rel=1e-14)
    assert found["fvu"] == pytest.approx(error / centred, rel=1e-14)
    # e = (0, 4), (-1, 0), (0, 1); its mean is (-1/3, 5/3)
    assert found["fvu_centred"] == pytest.approx((error - 3 * (1 / 9 + 25 / 9)) / centred, rel=1e-14)
    assert found["cosine"] == pytest.approx((9 / 15 + 1) / 2, rel=1e-14)  # the row that is 0 has no direction
    assert found["norm_ratio"] == pytest.approx((3 / 5 + 1 / 2) / 2, rel=1e-14)
    assert found["relative_bias"] == pytest.approx((9 + 1 + 1) / (9 + 0 + 2), rel=1e-14)


def test_shrinkage_shows_as_relative_bias_below_one():
    rows = Rows(np.random.default_rng(0).standard_normal((100, 3), dtype=np.float32))
    shrunk = Linear(0.8 * np.eye(3), np.eye(3), sigma=lambda pre: pre)
    found = run(shrunk, rows, scale=5.0).metrics
    assert found["relative_bias"] == pytest.approx(0.8, rel=1e-6)
    assert found["norm_ratio"] == pytest.approx(0.8, rel=1e-6)
    assert found["nmse"] == pytest.approx(0.04, rel=1e-5)
    assert found["cosine"] == pytest.approx(1, rel=1e-6)


def test_rows_that_are_all_equal_or_all_zero_leave_ratios_out():
    equal = run(Linear(np.eye(2)), Rows(np.ones((5, 2), dtype=np.float32))).metrics
    assert "fvu" not in equal
    assert equal["nmse"] == 0
    nothing = run(Linear(np.eye(2)), Rows(np.zeros((5, 2), dtype=np.float32))).metrics
    assert not {"fvu", "nmse", "cosine", "norm_ratio", "relative_bias", "ce_score_zero"} & set(nothing)
    assert nothing["delta_ce"] == 0


@pytest.mark.parametrize("step", [1, 3, 100])
def test_streamed_spread_keeps_its_digits_far_from_the_origin(step):
    x_ND = 1e6 + np.random.default_rng(0).standard_normal((100, 4))
    spread = Spread()
    for start in range(0, 100, step):
        spread.update(torch.from_numpy(x_ND[start : start + step]))
    assert spread.count == 100
    assert spread.squares == pytest.approx(np.square(x_ND - x_ND.mean(axis=0)).sum(), rel=1e-9)


def test_fvu_against_brute_force_with_a_large_mean():
    x_ND = (50 + np.random.default_rng(0).standard_normal((300, 6))).astype(np.float32)
    sae = Linear(random_unit(9, 6))
    found = run(sae, Rows(x_ND), chunk_rows=17).metrics
    with torch.no_grad():
        xhat_ND = sae.decode(sae.encode(torch.from_numpy(x_ND))).double().numpy()
    x_ND = x_ND.astype(np.float64)
    error_ND, centred_ND = x_ND - xhat_ND, x_ND - x_ND.mean(axis=0)
    assert found["fvu"] == pytest.approx(np.square(error_ND).sum() / np.square(centred_ND).sum(), rel=1e-5)
    residual = np.square(error_ND - error_ND.mean(axis=0)).sum()
    assert found["fvu_centred"] == pytest.approx(residual / np.square(centred_ND).sum(), rel=1e-4)


class Given(Squares):
    """Returns prepared losses instead of computing any."""

    def __init__(self, spliced, clean, zero, mean):
        super().__init__()
        self._spliced, self._baseline = np.array(spliced), Baseline(*map(np.array, (clean, zero, mean)))

    def splice(self, rows, xhat_ND):
        return self._spliced

    def baseline(self, rows):
        return self._baseline


def test_splice_by_hand_is_a_ratio_of_sums():
    subject = Given([2.0, 3.0, 4.0, 7.0], [1.0, 2.0, 3.0, 2.0], [5.0, 5.0, 5.0, 9.0], [3.0, 3.0, 4.0, 4.0])
    found = run(Linear(np.eye(2)), Rows(np.ones((4, 2), dtype=np.float32)), subject)
    numbers = found.metrics
    assert (numbers["ce_clean"], numbers["ce_spliced"], numbers["ce_zero"], numbers["ce_mean"]) == (2, 4, 6, 3.5)
    assert numbers["delta_ce"] == 2
    assert numbers["ce_score_zero"] == (24 - 16) / (24 - 8)
    assert numbers["ce_score_mean"] == (14 - 16) / (14 - 8)
    np.testing.assert_array_equal(found.arrays["delta_ce_sequences"], [1, 1, 1, 5])
    assert numbers["delta_ce_se"] == pytest.approx(np.sqrt((3 * 1 + 9) / 3) / 2)


def test_score_is_left_out_where_ablation_does_no_harm():
    subject = Given([2.0, 3.0], [1.0, 2.0], [1.0, 1.0], [1.0, 2.0])
    found = run(Linear(np.eye(2)), Rows(np.ones((2, 2), dtype=np.float32)), subject).metrics
    assert not {"ce_score_zero", "ce_score_mean"} & set(found)
    assert found["ce_zero"] == 1


def test_one_sequence_has_no_standard_error():
    rows = Rows(np.ones((6, 2), dtype=np.float32))
    found = run(Linear(0.5 * np.eye(2)), rows, Squares(rows_per_sequence=6))
    assert "delta_ce_se" not in found.metrics
    assert found.arrays["delta_ce_sequences"].shape == (1,)
    assert found.metrics["delta_ce"] == pytest.approx(2 * 0.75**2)


def test_sequences_of_several_rows_are_spliced_whole_whatever_the_chunks():
    rows = Rows(np.random.default_rng(0).standard_normal((30, 4), dtype=np.float32))
    sae = Linear(random_unit(5, 4))
    whole = run(sae, rows, Squares(rows_per_sequence=10))
    parts = run(sae, rows, Squares(rows_per_sequence=10), chunk_rows=7)
    assert parts.arrays["delta_ce_sequences"].shape == (3,)
    np.testing.assert_allclose(
        whole.arrays["delta_ce_sequences"], parts.arrays["delta_ce_sequences"], rtol=1e-5, atol=1e-7
    )
