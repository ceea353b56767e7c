"""What holds for every codec."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.kv.codecs import PageCodec, PageShape, codec_named
from tests.kv.codecs.pages import Case, cases

NAMES = ("full", "int8", "int4")


def encode(codec: PageCodec, case: Case) -> torch.Tensor:
    """All pages of a case, over bytes that were something else."""
    out = torch.full((case.pages, codec.encoded_bytes(case.shape)), 0xA5, dtype=torch.uint8)
    codec.encode(case.keys, case.values, out)
    return out


def decode(codec: PageCodec, data: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Into views of the strides that the case has."""
    keys, values = torch.empty_like(case.keys), torch.empty_like(case.values)
    codec.decode(data, case.shape, keys, values)
    return keys, values


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_many_pages_at_once_are_what_they_are_one_by_one(name: str, case: Case) -> None:
    codec = codec_named(name)
    together = encode(codec, case)
    keys, values = decode(codec, together, case)
    for number in range(case.pages):
        alone = torch.empty_like(together[number])
        codec.encode(case.keys[number], case.values[number], alone)
        assert torch.equal(alone, together[number])
        one_key, one_value = torch.empty_like(keys[0]), torch.empty_like(values[0])
        codec.decode(alone, case.shape, one_key, one_value)
        assert torch.equal(one_key, keys[number])
        assert torch.equal(one_value, values[number])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(case=cases(), layers=st.integers(1, 3))
def test_layers_decoded_together_are_what_they_are_one_by_one(
    name: str, case: Case, layers: int
) -> None:
    codec = codec_named(name)
    data = [encode(codec, case).roll(number, 0) for number in range(layers)]
    wanted = [decode(codec, pages, case) for pages in data]
    keys = [torch.empty_like(case.keys) for _ in data]
    values = [torch.empty_like(case.values) for _ in data]
    codec.decode_layers(data, case.shape, keys, values)
    for found, one in zip(zip(keys, values, strict=True), wanted, strict=True):
        assert torch.equal(found[0], one[0])
        assert torch.equal(found[1], one[1])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_nothing_around_the_outs_is_touched(name: str, case: Case) -> None:
    codec = codec_named(name)
    size = codec.encoded_bytes(case.shape)
    around = torch.full((case.pages, size + 64), 0xA5, dtype=torch.uint8)
    codec.encode(case.keys, case.values, around[:, 32 : 32 + size])
    assert (around[:, :32] == 0xA5).all()
    assert (around[:, 32 + size :] == 0xA5).all()

    wide = torch.full((*case.keys.shape[:3], case.shape.tokens + 2, case.shape.key_width), 7.0)
    wide = wide.to(case.shape.dtype)
    values = torch.empty_like(case.values)
    codec.decode(around[:, 32 : 32 + size], case.shape, wide[..., 1:-1, :], values)
    assert (wide[..., (0, -1), :] == 7).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_pages_are_nothing(name: str) -> None:
    codec = codec_named(name)
    states = torch.empty(0, 1, 2, 64, 8)
    shape = PageShape.of(states, states)
    data = torch.empty(0, codec.encoded_bytes(shape), dtype=torch.uint8)
    codec.encode(states, states, data)
    codec.decode(data, shape, states, states)


def bits(values: torch.Tensor) -> torch.Tensor:
    # A copy, since a dimension of one element may have any stride.
    return values.clone(memory_format=torch.contiguous_format).view(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_full_precision_gives_the_same_bits_back(case: Case) -> None:
    codec = codec_named("full")
    data = encode(codec, case)
    assert data.shape[1] == case.shape.raw_bytes
    for found, wanted in zip(decode(codec, data, case), (case.keys, case.values), strict=True):
        assert torch.equal(bits(found), bits(wanted))
    keys, values = case.shape.views(data)
    assert keys.data_ptr() == data.data_ptr()
    assert torch.equal(keys, case.keys)
    assert torch.equal(values, case.values)


def test_full_precision_keeps_even_what_is_not_a_number() -> None:
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]).view(1, 1, 2, 2)
    codec = codec_named("full")
    shape = PageShape.of(odd, odd)
    data = torch.empty(codec.encoded_bytes(shape), dtype=torch.uint8)
    codec.encode(odd, odd, data)
    keys, values = torch.empty_like(odd), torch.empty_like(odd)
    codec.decode(data, shape, keys, values)
    for back in (keys, values):
        assert torch.equal(back.view(torch.int32), odd.view(torch.int32))


def test_codecs_go_by_their_names() -> None:
    for name in NAMES:
        codec = codec_named(name)
        assert codec.codec_id == name
        assert codec.lossless == (name == "full")
    with pytest.raises(KeyError):
        codec_named("int3")


def test_a_page_takes_what_its_codec_says() -> None:
    # One page of a layer of Llama-3.1-8B.
    shape = PageShape(1, 8, 64, 128, 128, torch.bfloat16)
    numbers = 2 * 8 * 64 * 128
    sizes = {name: codec_named(name).encoded_bytes(shape) for name in NAMES}
    assert sizes["full"] == shape.raw_bytes == 2 * numbers
    scales = 4 * 8 * (128 + 64 * 2)
    assert sizes["int8"] == numbers + scales
    assert sizes["int4"] == numbers // 2 + scales + 4 * 8 * 128
    assert 2 * numbers / sizes["int4"] > 3.3
