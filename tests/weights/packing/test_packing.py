"""Packing of bf16 weights loses nothing, and says when it does not pay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
from ollm_widgets.weights.packing.format import BLOCK_ELEMENTS, StretchParts
from ollm_widgets.weights.packing.packing import (
    PackedFormat,
    PackedLayer,
    pack_layer,
    plan_packing,
    unpack_into,
)

SMALLEST = 64 * 1024


def layout_of(*tensors: tuple[torch.dtype, int]) -> LayerLayout:
    return LayerLayout.of(
        "",
        [
            TensorRecipe(f"t{number}", dtype, (elements,), (), None)
            for number, (dtype, elements) in enumerate(tensors)
        ],
    )


def normal_weights(layout: LayerLayout, seed: int = 0) -> torch.Tensor:
    """A buffer whose tensors are normally distributed and whose gaps are zero."""
    raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    for view in layout.views(raw).values():
        values = torch.empty(view.shape).normal_(std=0.02, generator=generator)
        view.copy_(values if view.is_floating_point() else values * 1000)
    return raw


def decoded(packed: PackedLayer) -> torch.Tensor:
    out = torch.full((packed.format.raw_size_bytes,), 0xA5, dtype=torch.uint8)
    unpack_into(packed.blob, packed.format, out)
    return out


def packed_of(raw: torch.Tensor, layout: LayerLayout) -> PackedLayer:
    packed = pack_layer(raw, layout)
    assert packed is not None
    assert packed.blob.numel() == packed.format.size_bytes
    return packed


# ---------------------------------------------------------------------- bit for bit


@settings(max_examples=40, deadline=None)
@given(
    elements=st.integers(SMALLEST, SMALLEST + 3 * BLOCK_ELEMENTS),
    exponents=st.lists(st.integers(0, 255), min_size=1, max_size=15),
    strays=st.dictionaries(
        st.integers(0, SMALLEST - 1), st.integers(-(2**15), 2**15 - 1), max_size=60
    ),
    seed=st.integers(0, 2**31),
)
def test_any_bits_come_back(
    elements: int, exponents: list[int], strays: dict[int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout = layout_of((torch.bfloat16, elements))
    raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
    values = layout.views(raw)["t0"].view(torch.int16)
    choice = torch.randint(len(exponents), (elements,), generator=generator)
    rest = torch.randint(-(2**15), 2**15, (elements,), dtype=torch.int16, generator=generator)
    values.copy_((rest & ~0x7F80) | (torch.tensor(exponents, dtype=torch.int16)[choice] << 7))
    if strays:
        values[torch.tensor(list(strays))] = torch.tensor(list(strays.values()), dtype=torch.int16)
    packed = packed_of(raw, layout)
    assert torch.equal(decoded(packed), raw)
    assert torch.equal(packed_of(raw, layout).blob, packed.blob)


def test_every_value_that_bf16_has_comes_back_from_a_table_or_as_an_escape() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    layout = layout_of((torch.bfloat16, 16 * 2**16))
    raw = normal_weights(layout)
    layout.views(raw)["t0"].view(torch.int16)[5 : 5 + 2**16] = every
    packed = packed_of(raw, layout)
    assert packed.format.escapes > 2**15
    assert torch.equal(decoded(packed), raw)


def test_special_values_are_the_same_bits() -> None:
    layout = layout_of((torch.bfloat16, SMALLEST))
    raw = normal_weights(layout)
    values = layout.views(raw)["t0"]
    patterns = [0x0000, 0x8000, 0x0001, 0x807F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0xFFC1]
    special = torch.tensor(patterns, dtype=torch.int32).to(torch.int16)
    for place in (0, 1023, 1024, 4091, SMALLEST - len(patterns)):
        values.view(torch.int16)[place : place + len(patterns)] = special
    assert torch.equal(decoded(packed_of(raw, layout)), raw)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, float("nan"), float("-inf"), 1e-40])
def test_one_exponent_everywhere_needs_no_escapes(value: float) -> None:
    layout = layout_of((torch.bfloat16, SMALLEST + 1))
    raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
    layout.views(raw)["t0"].fill_(value)
    packed = packed_of(raw, layout)
    assert packed.format.escapes == 0
    assert torch.equal(decoded(packed), raw)


def test_fifteen_exponents_fit_and_the_rarest_of_sixteen_escapes() -> None:
    layout = layout_of((torch.bfloat16, SMALLEST))
    raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
    values = layout.views(raw)["t0"].view(torch.int16)
    values.copy_((torch.arange(SMALLEST) % 15 + 100).to(torch.int16) << 7)
    assert packed_of(raw, layout).format.escapes == 0
    values[-1] = 200 << 7
    packed = packed_of(raw, layout)
    stretch = packed.format.packed[0]
    parts = StretchParts.of(packed.blob, stretch)
    assert set(parts.positions.tolist()) == {SMALLEST - 1}
    assert set(parts.exponents.tolist()) == {200}
    assert torch.equal(decoded(packed), raw)


@pytest.mark.parametrize("extra", [0, 1, 255, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, 70_001])
def test_sizes_that_do_not_fill_a_block_come_back(extra: int) -> None:
    layout = layout_of((torch.bfloat16, SMALLEST + extra))
    raw = normal_weights(layout)
    assert torch.equal(decoded(packed_of(raw, layout)), raw)


def test_what_lies_in_the_gaps_comes_back_as_well() -> None:
    layout = layout_of((torch.bfloat16, 1), (torch.bfloat16, SMALLEST + 3), (torch.bfloat16, 7))
    raw = normal_weights(layout)
    raw[2:512] = torch.arange(510).to(torch.uint8)
    raw[-498:] = torch.arange(498).to(torch.uint8)
    assert torch.equal(decoded(packed_of(raw, layout)), raw)


def test_layers_of_several_steps_of_work_come_back() -> None:
    layout = layout_of((torch.bfloat16, 5_000_000), (torch.bfloat16, 1_234_567))
    raw = normal_weights(layout)
    layout.views(raw)["t1"][::1000] = 7e8
    packed = packed_of(raw, layout)
    assert packed.format.escapes > 1_234
    assert torch.equal(decoded(packed), raw)


def test_the_embedded_model_comes_back_from_three_quarters_of_its_bytes(
    converted_smollm: Path,
) -> None:
    from safetensors import safe_open

    layers: dict[str, dict[str, torch.Tensor]] = {}
    for file in converted_smollm.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is no mapping)
                for number in (0, 17):
                    if name.startswith(f"model.layers.{number}."):
                        layer = layers.setdefault(f"model.layers.{number}", {})
                        layer[name] = tensors.get_tensor(name).to(torch.bfloat16)
    assert len(layers) == 2
    for prefix, tensors in layers.items():
        layout = LayerLayout.of(
            prefix,
            [TensorRecipe(n, t.dtype, tuple(t.shape), (), None) for n, t in tensors.items()],
        )
        raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
        for name, view in layout.views(raw).items():
            view.copy_(tensors[f"{prefix}.{name}"])
        packed = packed_of(raw, layout)
        assert packed.format.size_bytes < 0.77 * layout.size_bytes
        out = decoded(packed)
        for name, view in layout.views(out).items():
            expected = tensors[f"{prefix}.{name}"]
            assert torch.equal(view.view(torch.int16), expected.view(torch.int16))


# ---------------------------------------------------------------------- what is packed


def test_normal_weights_take_three_quarters_of_their_bytes() -> None:
    layout = layout_of((torch.bfloat16, 4_000_000), (torch.bfloat16, 4096))
    packed = packed_of(normal_weights(layout), layout)
    assert 0.75 <= packed.format.size_bytes / layout.size_bytes <= 0.755
    assert packed.format.elements > 0.99 * layout.size_bytes / 2


def test_tensors_of_other_dtypes_pass_through() -> None:
    layout = layout_of(
        (torch.float32, 33),
        (torch.bfloat16, SMALLEST),
        (torch.bfloat16, 2 * SMALLEST + 5),
        (torch.float16, 1001),
        (torch.int8, 77),
        (torch.bfloat16, SMALLEST + 1),
        (torch.bfloat16, 3),
        (torch.int64, 9),
        (torch.bfloat16, 100),
    )
    raw = normal_weights(layout)
    packed = packed_of(raw, layout)
    assert [stretch.blocks for stretch in packed.format.packed] == [48, 16]
    assert packed.format.raw_bytes == layout.size_bytes - 64 * 2 * BLOCK_ELEMENTS
    assert torch.equal(decoded(packed), raw)


def test_a_stretch_of_odd_numbers_passes_through_beside_one_that_packs() -> None:
    layout = layout_of(
        (torch.bfloat16, 16 * SMALLEST), (torch.int32, 5), (torch.bfloat16, SMALLEST)
    )
    raw = normal_weights(layout)
    noise = torch.randint(-(2**15), 2**15, (SMALLEST,), dtype=torch.int16)
    layout.views(raw)["t2"].view(torch.int16).copy_(noise)
    packed = packed_of(raw, layout)
    assert len(packed.format.packed) == 1
    assert torch.equal(decoded(packed), raw)


def test_a_layer_of_many_exponents_stays_raw() -> None:
    layout = layout_of((torch.bfloat16, 2 * SMALLEST))
    raw = torch.randint(0, 256, (layout.size_bytes,), dtype=torch.uint8)
    assert pack_layer(raw, layout) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int8])
def test_layers_of_other_dtypes_stay_raw(dtype: torch.dtype) -> None:
    layout = layout_of((dtype, 2 * SMALLEST))
    assert pack_layer(normal_weights(layout), layout) is None


@pytest.mark.parametrize("elements", [0, 1, 1000, SMALLEST - 1])
def test_small_layers_stay_raw(elements: int) -> None:
    layout = layout_of((torch.bfloat16, elements))
    assert pack_layer(normal_weights(layout), layout) is None


def test_a_layer_without_tensors_stays_raw() -> None:
    layout = LayerLayout((), 0)
    assert plan_packing(layout) == ()
    assert pack_layer(torch.empty(0, dtype=torch.uint8), layout) is None


def test_runs_longer_than_positions_reach_are_cut_into_whole_blocks() -> None:
    layout = layout_of((torch.bfloat16, 2**31 + 5), (torch.bfloat16, 300), (torch.bfloat16, 4096))
    ranges = plan_packing(layout)
    assert [part.size_bytes for part in ranges] == [2**31, 2**31, 2 * 4096]
    short = plan_packing(layout, max_elements=2**30 - 1)
    assert all(part.size_bytes % (2 * BLOCK_ELEMENTS) == 0 for part in short)
    assert all(a.end_bytes == b.offset_bytes for a, b in pairwise(short))


# ---------------------------------------------------------------------- buffers


def test_decoding_leaves_what_lies_beyond_alone_and_reads_from_longer_slots() -> None:
    layout = layout_of((torch.bfloat16, SMALLEST + 77))
    raw = normal_weights(layout)
    packed = packed_of(torch.cat((raw, raw)), layout)
    slot = torch.cat((packed.blob, torch.full((1000,), 3, dtype=torch.uint8)))
    out = torch.full((layout.size_bytes + 100,), 9, dtype=torch.uint8)
    unpack_into(slot, packed.format, out)
    assert torch.equal(out[: layout.size_bytes], raw)
    assert (out[layout.size_bytes :] == 9).all()


def test_packing_does_not_change_the_layer() -> None:
    layout = layout_of((torch.bfloat16, SMALLEST))
    raw = normal_weights(layout)
    before = raw.clone()
    pack_layer(raw, layout)
    assert torch.equal(raw, before)


def test_buffers_that_do_not_fit_are_refused_with_their_sizes() -> None:
    layout = layout_of((torch.bfloat16, SMALLEST))
    raw = normal_weights(layout)
    packed = packed_of(raw, layout)
    out = torch.empty_like(raw)
    with pytest.raises(ValueError, match=f"{packed.format.size_bytes} bytes"):
        unpack_into(packed.blob[:-1], packed.format, out)
    with pytest.raises(ValueError, match=f"{layout.size_bytes} bytes"):
        unpack_into(packed.blob, packed.format, out[:-1])
    with pytest.raises(ValueError, match="uint8"):
        unpack_into(packed.blob, packed.format, out.view(torch.int8))
    with pytest.raises(ValueError, match="aligned to 16"):
        unpack_into(packed.blob, packed.format, torch.cat((out, out))[1:])
    with pytest.raises(ValueError, match="a layer's buffer"):
        pack_layer(raw[:-1], layout)
    with pytest.raises(ValueError, match="does not decode to meta"):
        unpack_into(packed.blob, packed.format, out.to("meta"))


# ---------------------------------------------------------------------- damage


def example() -> PackedLayer:
    layout = layout_of((torch.bfloat16, SMALLEST + 5), (torch.float32, 50))
    raw = normal_weights(layout)
    layout.views(raw)["t0"][7] = 1e30
    return packed_of(raw, layout)


@pytest.mark.parametrize("position", [-1, SMALLEST, 2**31 - 1, -(2**31)])
def test_an_escape_outside_of_its_stretch_is_refused(position: int) -> None:
    packed = example()
    StretchParts.of(packed.blob, packed.format.packed[0]).positions[3] = position
    with pytest.raises(ValueError, match="damaged"):
        decoded(packed)


def damaged_formats(good: PackedFormat) -> dict[str, dict[str, object]]:
    stretch, tail = good.packed[0], good.passed[-1]
    return {
        "longer than its stretches": {"raw_size_bytes": good.raw_size_bytes + 512},
        "shorter than its stretches": {"raw_size_bytes": good.raw_size_bytes - 512},
        "a short blob": {"size_bytes": tail.offset_bytes + tail.size_bytes - 1},
        "a hole": {"passed": good.passed[:-1]},
        "bytes twice": {"passed": (*good.passed, tail)},
        "no blocks": {"packed": (replace(stretch, blocks=0),)},
        "negative blocks": {"packed": (replace(stretch, blocks=-1),)},
        "too many blocks": {"packed": (replace(stretch, blocks=2**31),)},
        "a list of any length": {"packed": (replace(stretch, escapes=stretch.escapes + 1),)},
        "a negative list": {"packed": (replace(stretch, escapes=-1024),)},
        "a list into the tail": {"packed": (replace(stretch, escapes=stretch.escapes + 1024),)},
        "a stretch elsewhere": {"packed": (replace(stretch, raw_offset_bytes=8),)},
        "an odd place": {"packed": (replace(stretch, offset_bytes=1),)},
        "before the blob": {"packed": (replace(stretch, offset_bytes=-256),)},
        "parts over each other": {"passed": (replace(tail, offset_bytes=0),)},
    }


@pytest.mark.parametrize("damage", sorted(damaged_formats(example().format)))
def test_a_damaged_format_is_refused(damage: str) -> None:
    good = example().format
    with pytest.raises(ValueError, match=r"stretch|expected at"):
        replace(good, **damaged_formats(good)[damage])
