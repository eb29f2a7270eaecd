from __future__ import annotations

import math

import numpy as np
import pytest

from vsae_search.activations import statistics
from vsae_search.activations.codec import encode_rows
from vsae_search.activations.statistics import combine, sum_rows
from vsae_search.errors import UserInputError


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_scale_and_mean_equal_direct_computation(dtype, monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 7 * 8 * 6)  # several chunks, and a short last one
    x_ND = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32) * 3 + 100
    stored_ND = encode_rows(x_ND, dtype)
    result = combine([sum_rows(stored_ND[:20], dtype), sum_rows(stored_ND[20:], dtype)])
    seen_ND = x_ND if dtype == "fp32" else x_ND.astype(np.float16)
    if dtype == "bf16":
        seen_ND = (stored_ND.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    seen_ND = seen_ND.astype(np.float64)
    norm_N = np.linalg.norm(seen_ND, axis=1)
    assert result.scale == pytest.approx(math.sqrt(6 / np.mean(norm_N**2)), rel=1e-13)
    np.testing.assert_allclose(result.mean_D, seen_ND.mean(axis=0), rtol=1e-13)
    assert result.max_norm == pytest.approx(norm_N.max(), rel=1e-13)
    scaled_ND = seen_ND * result.scale
    assert np.mean(np.sum(scaled_ND**2, axis=1)) == pytest.approx(6, rel=1e-12)


def test_scale_by_hand():
    result = combine([sum_rows(np.array([[3, 4], [0, 0]], dtype=np.float32), "fp32")])
    assert result.scale == pytest.approx(math.sqrt(2 / 12.5))
    assert result.mean_D == (1.5, 2.0)
    assert result.max_norm == 5.0


def test_high_norm_rows_are_counted_with_their_energy():
    x_ND = np.ones((100, 1), dtype=np.float32)
    x_ND[7] = 30
    result = combine([sum_rows(x_ND, "fp32")])
    assert result.high_norm_fraction == pytest.approx(0.01)
    assert result.high_norm_energy == pytest.approx(900 / 999)
    assert (result.max_norm, result.median_norm) == (30.0, 1.0)


def test_rows_of_zeros_do_not_make_the_others_outliers():
    x_ND = np.zeros((100, 2), dtype=np.float32)
    x_ND[:10] = [3, 4]
    empty_ND = np.zeros((500, 2), dtype=np.float32)
    result = combine([sum_rows(x_ND, "fp32"), sum_rows(empty_ND, "fp32")])
    assert result.median_norm == 5.0
    assert result.high_norm_fraction == result.high_norm_energy == 0.0
    assert result.scale == pytest.approx(math.sqrt(2 / (10 * 25 / 600)))


def test_median_norm_is_weighted_by_rows():
    shards = [np.full((rows, 1), value, dtype=np.float32) for rows, value in [(10, 5.0), (100, 2.0), (3, 9.0)]]
    assert combine([sum_rows(shard, "fp32") for shard in shards]).median_norm == 2.0


def test_all_zero_rows_have_no_scale():
    with pytest.raises(UserInputError, match="zero"):
        combine([sum_rows(np.zeros((4, 2), dtype=np.float32), "fp32")])
