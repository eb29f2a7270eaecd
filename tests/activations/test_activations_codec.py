from __future__ import annotations

import numpy as np
import pytest
import torch

from vsae_search.activations.codec import STORAGE, decode_rows, encode_rows
from vsae_search.errors import UserInputError


def rows(num_rows: int = 300, d_in: int = 257) -> np.ndarray:
    x_ND = np.random.default_rng(0).standard_normal((num_rows, d_in)).astype(np.float32)
    special = [0.0, -0.0, 6e-8, -1e-7, 60000.0, -6e-5]  # zeros, fp16 subnormals, near the fp16 maximum
    x_ND.flat[: min(len(special), d_in)] = special[:d_in]
    return x_ND


def decoded(stored_ND: np.ndarray, dtype: str, scale: float) -> np.ndarray:
    out_ND = np.full(stored_ND.shape, np.nan, dtype=np.float32)
    decode_rows(stored_ND, dtype, scale, out_ND)
    return out_ND


@pytest.mark.parametrize(
    ("dtype", "rounded"),
    [
        ("fp32", lambda x: x),
        ("fp16", lambda x: x.astype(np.float16).astype(np.float32)),
        ("bf16", lambda x: torch.tensor(x).to(torch.bfloat16).to(torch.float32).numpy()),
    ],
)
def test_rows_come_back_rounded_once_and_scaled_in_float32(dtype, rounded):
    x_ND = rows()
    stored_ND = encode_rows(x_ND, dtype)
    assert stored_ND.dtype == STORAGE[dtype]
    stored_ND.flags.writeable = False
    np.testing.assert_array_equal(decoded(stored_ND, dtype, 1.0), rounded(x_ND))
    # bitwise the float32 product: fp16 arithmetic would differ, and 60000 * 1.7 would be inf
    np.testing.assert_array_equal(decoded(stored_ND, dtype, 1.7), rounded(x_ND) * np.float32(1.7))


def test_bf16_is_the_bit_pattern_of_torch():
    x_ND = rows()
    expected = torch.tensor(x_ND).to(torch.bfloat16)
    stored_ND = encode_rows(x_ND, "bf16")
    assert torch.equal(torch.from_numpy(stored_ND).view(torch.bfloat16), expected)
    again_ND = encode_rows(decoded(stored_ND, "bf16", 1.0), "bf16")
    np.testing.assert_array_equal(again_ND, stored_ND)  # a second round trip changes nothing


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_rows_are_refused(dtype, bad):
    x_ND = rows(4, 3)
    x_ND[2, 1] = bad
    with pytest.raises(UserInputError, match="not finite"):
        encode_rows(x_ND, dtype)


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 7e4), ("bf16", 3.4e38)])
def test_overflow_is_refused_with_the_value(dtype, value):
    x_ND = rows(4, 3)
    x_ND[2, 1] = -value
    with pytest.raises(UserInputError, match="cannot hold") as caught:
        encode_rows(x_ND, dtype)
    assert f"{value:.4g}" in str(caught.value)
    assert ("bf16" in caught.value.hint) == (dtype == "fp16")


def test_one_row_wider_than_a_block():
    x_ND = rows(2, 70_000)
    for dtype in ("fp16", "bf16"):
        stored_ND = encode_rows(x_ND, dtype)
        assert np.abs(decoded(stored_ND, dtype, 2.0) - 2 * x_ND).max() <= np.abs(2 * x_ND).max() / 128
