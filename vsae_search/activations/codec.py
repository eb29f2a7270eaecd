"""How rows are stored, and how they come back as float32.

``fp32`` and ``fp16`` are stored as such. numpy has no bfloat16, so ``bf16`` is stored as the int16 that carries its
bits: exact, and shared between processes without a copy.

Shapes: N rows, D d_in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from vsae_search.errors import UserInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype: TypeAlias = Literal["fp32", "fp16", "bf16"]

STORAGE: dict[Dtype, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(np.int16),
}
"""The numpy type that holds each row type."""

_FP16_INF, _BF16_INF = 0x7C00, 0x7F80  # bits of +infinity; NaNs have larger ones
_BLOCK_BYTES = 1 << 18
"""Rows are decoded in blocks of about this many output bytes, so that every pass after the first stays in cache."""


def encode_rows(x_ND: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Round float32 rows to the stored type.

    Args:
        x_ND: Activations, float32 [N, D].
        dtype: Row type; bf16 rounds to nearest even, as torch does.

    Returns:
        Array [N, D] of ``STORAGE[dtype]``; a contiguous array of its own unless the type is fp32.

    Raises:
        UserInputError: A value is not finite, or is too large for ``dtype``.
    """
    if dtype == "fp32":
        stored_ND: NDArray[Any] = np.ascontiguousarray(x_ND, dtype=np.float32)
        finite = bool(np.isfinite(stored_ND).all())
    elif dtype == "fp16":
        with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
            stored_ND = x_ND.astype(np.float16)
        finite = _all_below(stored_ND, _FP16_INF)
    else:
        stored_ND = torch.tensor(x_ND, dtype=torch.bfloat16).view(torch.int16).numpy()
        finite = _all_below(stored_ND, _BF16_INF)
    if not finite:
        raise _refusal(x_ND, dtype)
    return stored_ND


def decode_rows(stored_ND: NDArray[Any], dtype: Dtype, scale: float, out_ND: NDArray[np.float32]) -> None:
    """Cast stored rows to float32 and multiply them by ``scale``, into memory that the caller owns.

    One pass over memory: the work goes block by block, and a block's second operation finds it in cache. The input may
    be shared between processes and is never wrapped in a torch tensor, because torch would make it writable.

    Args:
        stored_ND: Rows as ``encode_rows`` made them [N, D]; read only is fine.
        dtype: Row type.
        scale: Factor, dimensionless; the product is computed in float32.
        out_ND: Destination, float32 [N, D].
    """
    factor = np.float32(scale)
    if dtype == "fp32":
        np.multiply(stored_ND, factor, out=out_ND)
        return
    step = max(1, _BLOCK_BYTES // max(1, out_ND.shape[1] * out_ND.itemsize))
    for start in range(0, len(out_ND), step):
        block, out = stored_ND[start : start + step], out_ND[start : start + step]
        if dtype == "fp16":
            # torch casts fp16 about ten times faster than numpy; it is given a private copy of the block
            torch.from_numpy(out).copy_(torch.from_numpy(block.copy()))
        else:
            bits = out.view(np.uint32)
            np.copyto(bits, block.view(np.uint16))  # widening first, in a pass of its own, takes two thirds of the time
            np.left_shift(bits, 16, out=bits)
        np.multiply(out, factor, out=out)


def _all_below(stored_ND: NDArray[Any], infinity: int) -> bool:
    """Whether all 16-bit numbers are finite: without their sign, the bits of finite numbers are below infinity's."""
    step = max(1, _BLOCK_BYTES // max(1, stored_ND.shape[1] * stored_ND.itemsize))
    bits_ND = stored_ND.view(np.uint16)
    return all(
        int((bits_ND[start : start + step] & 0x7FFF).max(initial=0)) < infinity
        for start in range(0, len(bits_ND), step)
    )


def _refusal(x_ND: NDArray[np.float32], dtype: Dtype) -> UserInputError:
    """Return the error for rows that are not finite once they are stored."""
    if not np.isfinite(x_ND).all():
        return UserInputError(
            "the subject produced activations that are not finite", "check the subject: nothing can be trained on NaN"
        )
    return UserInputError(
        f"activations reach {float(np.abs(x_ND).max()):.4g}, which {dtype} cannot hold",
        "set activations.dtype to fp32" + (" or bf16" if dtype == "fp16" else ""),
    )
