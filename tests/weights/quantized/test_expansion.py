"""Quantized tensors are expanded to the bits that transformers makes of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.weights.quantized import expanding
from ollm_widgets.weights.quantized.expanding import expand_fp8, expand_mxfp4
from tests.weights.quantized.samples import (
    fp8_tensor,
    mxfp4_tensor,
    same_bits,
    theirs_fp8,
    theirs_mxfp4,
)

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@settings(max_examples=60, deadline=None)
@given(
    stacked=st.sampled_from([(), (1,), (3,)]),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    block=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scales=st.sampled_from(DTYPES),
    dtype=st.sampled_from(DTYPES),
    step=st.sampled_from([1, 7, 64, 1000, 1 << 18]),
    seed=st.integers(0, 1000),
)
def test_8_bit_values_of_any_shape_have_the_bits_of_transformers(
    stacked: tuple[int, ...],
    blocks: tuple[int, int],
    block: tuple[int, int],
    scales: torch.dtype,
    dtype: torch.dtype,
    step: int,
    seed: int,
) -> None:
    shape = (*stacked, blocks[0] * block[0], blocks[1] * block[1])
    values, factors = fp8_tensor(shape, (*stacked, *blocks), scales, seed)
    out = torch.full(shape, float("nan"), dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expanding, "_CPU_STEP_ELEMENTS", step)
        expand_fp8(values, factors, out)
    assert same_bits(out, theirs_fp8(values, factors, dtype))


def test_8_bit_codes_that_are_no_number_stay_none() -> None:
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(2, 128)
    values, scales = codes.view(torch.float8_e4m3fn), torch.tensor([[0.37]])
    out = torch.empty(2, 128, dtype=torch.bfloat16)
    expand_fp8(values, scales, out)
    theirs = theirs_fp8(values, scales, torch.bfloat16)
    assert out.isnan().nonzero().tolist() == [[0, 127], [1, 127]]
    torch.testing.assert_close(out, theirs, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    experts=st.integers(1, 3),
    columns=st.integers(1, 70),
    groups=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    step=st.sampled_from([1, 100, 1 << 18]),
    seed=st.integers(0, 1000),
)
def test_4_bit_values_of_any_shape_have_the_bits_of_transformers(
    experts: int, columns: int, groups: int, dtype: torch.dtype, step: int, seed: int
) -> None:
    values, scales = mxfp4_tensor(experts, columns, groups, seed)
    out = torch.full((experts, 32 * groups, columns), float("nan"), dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expanding, "_CPU_STEP_ELEMENTS", step)
        expand_mxfp4(values, scales, out)
    assert same_bits(out, theirs_mxfp4(values, scales, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_4_bit_values_of_every_byte_and_exponent_have_the_bits_of_transformers(
    dtype: torch.dtype,
) -> None:
    exponents = torch.arange(255, dtype=torch.int16).to(torch.uint8)
    scales = exponents.view(1, 255, 1).repeat(1, 1, 16).contiguous()
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(1, 1, 16, 16)
    values = every.repeat(1, 255, 1, 1).contiguous()
    out = torch.empty(1, 512, 255, dtype=dtype)
    expand_mxfp4(values, scales, out)
    assert same_bits(out, theirs_mxfp4(values, scales, dtype))


def test_small_numbers_survive_where_the_processor_takes_them_for_zero() -> None:
    values, scales = fp8_tensor((16, 64), (2, 2), torch.float32)
    blocks, exponents = mxfp4_tensor(1, 8, 2)
    exponents.clamp_(100, 130)
    eight, four = torch.empty(16, 64), torch.empty(1, 64, 8)
    wanted = (
        theirs_fp8(values, scales, torch.float32),
        theirs_mxfp4(blocks, exponents, torch.float32),
    )
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor knows no such mode")
    try:
        expand_fp8(values, scales, eight)
        expand_mxfp4(blocks, exponents, four)
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(eight, wanted[0])
    assert same_bits(four, wanted[1])


def test_rows_that_were_not_chosen_are_left_as_they_are() -> None:
    chosen = torch.tensor([4, -1, 0])
    values, scales = fp8_tensor((3, 8, 32), (3, 2, 4), torch.float32)
    blocks, exponents = mxfp4_tensor(3, 8, 1)
    for out, expand, theirs in (
        (torch.full((3, 8, 32), 7.0), expand_fp8, theirs_fp8(values, scales, torch.float32)),
        (
            torch.full((3, 32, 8), 7.0),
            expand_mxfp4,
            theirs_mxfp4(blocks, exponents, torch.float32),
        ),
    ):
        parts = (values, scales) if expand is expand_fp8 else (blocks, exponents)
        expand(*parts, out, chosen)
        assert same_bits(out[[0, 2]], theirs[[0, 2]])
        assert bool((out[1] == 7).all())
