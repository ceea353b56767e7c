"""Compare the kernels with torch under Triton's interpreter; `test_quantized_kernels` runs this.

The interpreter cuts bfloat16 off where a GPU rounds, so other dtypes stand for it here.
"""

from __future__ import annotations

import itertools

import torch

from ollm_widgets.weights.quantized import expanding, kernels
from tests.weights.quantized.samples import fp8_tensor, mxfp4_tensor, same_bits

# shape, grid of scales
FP8 = (
    ((5, 64), (1, 1)),
    ((16, 96), (4, 3)),
    ((6, 1030), (3, 2)),
    ((3, 8, 40), (3, 2, 4)),
)
MXFP4 = ((1, 5, 1), (3, 70, 3), (2, 64, 9))
DTYPES = (torch.float32, torch.float16)


def check_fp8(
    shape: tuple[int, ...], grid: tuple[int, ...], scales: torch.dtype, dtype: torch.dtype
) -> None:
    """Values of every code with scales of any dtype, some rows left out."""
    values, factors = fp8_tensor(shape, grid, scales)
    chosen = torch.tensor([0, -1, 2]) if len(shape) > 2 else None
    for picked in (None, chosen):
        ours, theirs = torch.full(shape, 5.0, dtype=dtype), torch.full(shape, 5.0, dtype=dtype)
        kernels.expand_fp8(values, factors, ours, picked)
        expanding.expand_fp8(values, factors, theirs, picked)
        assert same_bits(ours, theirs), (shape, grid, scales, dtype)


def check_mxfp4(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Random bytes with any exponent, some experts left out."""
    values, exponents = mxfp4_tensor(*shape)
    out = (shape[0], 32 * shape[2], shape[1])
    chosen = torch.arange(shape[0]) - 1
    for picked in (None, chosen):
        ours, theirs = torch.full(out, 5.0, dtype=dtype), torch.full(out, 5.0, dtype=dtype)
        kernels.expand_mxfp4(values, exponents, ours, picked)
        expanding.expand_mxfp4(values, exponents, theirs, picked)
        assert same_bits(ours, theirs), (shape, dtype)


def check_no_numbers() -> None:
    """The two codes that are no number."""
    codes = torch.tensor([[127, 255, 126, 254, 0, 128]], dtype=torch.uint8)
    out = torch.empty(1, 6)
    kernels.expand_fp8(codes.view(torch.float8_e4m3fn), torch.ones(1, 1), out, None)
    assert out.isnan().tolist() == [[True, True, False, False, False, False]]


if __name__ == "__main__":
    for (shape, grid), dtype in itertools.product(FP8, DTYPES):
        check_fp8(shape, grid, torch.float32, dtype)
    for scales in (torch.float16, torch.bfloat16):
        check_fp8(*FP8[1], scales, torch.float32)
    for shape3, dtype in itertools.product(MXFP4, DTYPES):
        check_mxfp4(shape3, dtype)
    check_no_numbers()
    print("right")
