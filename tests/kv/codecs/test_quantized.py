from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.kv.codecs import PageShape, QuantizedCodec, codec_named
from ollm_widgets.kv.codecs import quantized as quantized_module
from ollm_widgets.kv.codecs.sections import Bits
from tests.kv.codecs.pages import Case, cases, read_bytes
from tests.kv.codecs.test_pages import decode, encode

BITS: tuple[Bits, ...] = (8, 4)
codecs = st.builds(
    QuantizedCodec,
    st.sampled_from(BITS),
    key_group_tokens=st.sampled_from((None, 1, 3, 16)),
    value_group_channels=st.sampled_from((None, 1, 5, 32)),
)


def scales_of(codec: QuantizedCodec, data: torch.Tensor, case: Case) -> list[np.ndarray]:
    """Scale of each number of keys, and of values."""
    groups = codec.bits, codec.key_group_tokens, codec.value_group_channels
    pages = [read_bytes(page.numpy().tobytes(), case.shape, *groups) for page in data]
    return [np.stack([page[part][1] for page in pages]) for part in (0, 1)]


@settings(max_examples=150, deadline=None)
@given(case=cases(), codec=codecs)
def test_a_number_is_off_by_at_most_half_a_scale(case: Case, codec: QuantizedCodec) -> None:
    data = encode(codec, case)
    scales = scales_of(codec, data, case)
    for found, wanted, scale in zip(
        decode(codec, data, case), (case.keys, case.values), scales, strict=True
    ):
        error = (found.double() - wanted.double()).abs().numpy()
        # Of the sum in float32, whose parts may be larger than it, and of the dtype it came as.
        largest = wanted.double().abs().numpy() + scale * (1 << codec.bits)
        rounding = 2.0**-22 * largest + torch.finfo(case.shape.dtype).eps * largest
        assert (error <= scale / 2 + rounding + 2.0**-24).all()


@settings(max_examples=100, deadline=None)
@given(case=cases(), codec=codecs)
def test_a_scale_is_the_range_of_its_group_and_no_more(case: Case, codec: QuantizedCodec) -> None:
    data = encode(codec, case)
    scales = scales_of(codec, data, case)
    most = (1 << codec.bits) - 1
    for states, scale, size, axis in (
        (case.keys, scales[0], codec.key_group_tokens, -2),
        (case.values, scales[1], codec.value_group_channels, -1),
    ):
        numbers = states.double().numpy()
        for first in range(0, numbers.shape[axis], size):
            members = range(first, min(first + size, numbers.shape[axis]))
            group = numbers.take(members, axis)
            low = group.min(axis, keepdims=True)
            spread = group.max(axis, keepdims=True) - low
            # The zero is rounded down and the scale up, each by less than a float16's last place.
            bound = (spread + 2.0**-10 * np.abs(low) + 2.0**-24) / most * (1 + 2.0**-10) + 2.0**-23
            assert (scale.take(members, axis) <= bound).all()


@settings(max_examples=100, deadline=None)
@given(case=cases(), codec=codecs)
def test_the_bytes_are_as_the_docstring_says(case: Case, codec: QuantizedCodec) -> None:
    data = encode(codec, case)
    found = decode(codec, data, case)
    groups = codec.bits, codec.key_group_tokens, codec.value_group_channels
    for number in range(case.pages):
        page = read_bytes(data[number].numpy().tobytes(), case.shape, *groups)
        for part in (0, 1):
            wanted = torch.from_numpy(page[part][0]).to(case.shape.dtype)
            torch.testing.assert_close(
                found[part][number], wanted, rtol=2 * torch.finfo(case.shape.dtype).eps, atol=1e-6
            )
    layout = codec.layout(case.shape)
    sections = [*layout.keys, *layout.values]
    assert all(section.offset % 16 == 0 for section in sections)
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        end = following.offset if following else layout.size_bytes
        assert not data[:, section.end : end].any()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("constant", [0.0, -0.0, 1.5, -300.25, 1e-9, -1e-9, 65504.0])
def test_numbers_that_are_all_the_same_come_back(bits: Bits, constant: float) -> None:
    codec = QuantizedCodec(bits)
    states = torch.full((1, 2, 70, 9), constant)
    shape = PageShape.of(states, states)
    data = torch.empty(codec.encoded_bytes(shape), dtype=torch.uint8)
    codec.encode(states, states, data)
    keys, values = torch.empty_like(states), torch.empty_like(states)
    codec.decode(data, shape, keys, values)
    for back in (keys, values):
        torch.testing.assert_close(back, states, rtol=0, atol=6e-8)


@pytest.mark.parametrize("bits", BITS)
def test_numbers_beyond_float16_are_clamped_to_it(bits: Bits) -> None:
    codec = QuantizedCodec(bits, key_group_tokens=2, value_group_channels=2)
    states = torch.tensor([[-1e30, 3e38], [-70000.0, 70000.0]]).view(1, 1, 2, 2)
    shape = PageShape.of(states, states)
    data = torch.empty(codec.encoded_bytes(shape), dtype=torch.uint8)
    codec.encode(states, states, data)
    keys, values = torch.empty_like(states), torch.empty_like(states)
    codec.decode(data, shape, keys, values)
    for back in (keys, values):
        assert back.isfinite().all()
        assert torch.equal(back[..., 0] < 0, states[..., 0] < 0)
        assert back[..., 0].max() >= -65504


@settings(max_examples=30, deadline=None)
@given(case=cases(), codec=codecs)
def test_what_was_quantized_before_is_quantized_to_almost_the_same(
    case: Case, codec: QuantizedCodec
) -> None:
    """A page that is brought back and goes cold again does not drift."""
    data = encode(codec, case)
    scales = scales_of(codec, data, case)
    once = decode(codec, data, case)
    twice = decode(codec, encode(codec, Case(case.shape, *once)), case)
    for first, second, scale in zip(once, twice, scales, strict=True):
        error = (first.double() - second.double()).abs().numpy()
        largest = first.double().abs().numpy() + scale * (1 << codec.bits)
        allowed = scale * 0.51 + 2 * torch.finfo(case.shape.dtype).eps * largest
        assert (error <= allowed + 2.0**-10 * np.abs(first.double().numpy()) + 1e-7).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_pages_are_worked_on_a_few_at_a_time_without_a_difference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_named(name)
    keys = torch.randn(7, 1, 2, 64, 16)
    case = Case(PageShape.of(keys, keys), keys, keys * 2)
    at_once = encode(codec, case)
    monkeypatch.setattr(quantized_module, "_CPU_NUMBERS", 2 * keys[0].numel())
    assert torch.equal(encode(codec, case), at_once)
    monkeypatch.setattr(quantized_module, "_CPU_NUMBERS", 1)
    assert torch.equal(encode(codec, case), at_once)
    assert torch.equal(*(decode(codec, at_once, case)[0] for _ in range(2)))
