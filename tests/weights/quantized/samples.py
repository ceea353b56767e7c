"""Quantized tensors of any shape, and what transformers makes of them."""

from __future__ import annotations

import torch


def fp8_tensor(
    shape: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random values of every code but the two that are no number, and scales that need rounding."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 254, shape, generator=generator, dtype=torch.uint8)
    codes += (codes >= 127).to(torch.uint8)
    scales = (0.01 + torch.rand(grid, generator=generator)).to(dtype)
    return codes.view(torch.float8_e4m3fn), scales


def mxfp4_tensor(
    experts: int, columns: int, groups: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes, with exponents over all of their range but the last."""
    generator = torch.Generator().manual_seed(seed)
    shape = (experts, columns, groups)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)


def theirs_fp8(values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As transformers expands it."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    return Fp8Dequantize(None)._dequantize_one(values, scales, dtype)


def theirs_mxfp4(values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As transformers expands it."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(values, scales, dtype=dtype)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same, signs of zeros included."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    )
