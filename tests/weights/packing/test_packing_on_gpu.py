"""Packing and decoding on a CUDA device give the bits of the CPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
from ollm_widgets.weights.packing import unpacking
from ollm_widgets.weights.packing.format import BLOCK_ELEMENTS, StretchParts
from ollm_widgets.weights.packing.packing import PackedLayer, pack_layer, unpack_into

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SMALLEST = 64 * 1024
SIZES = [
    SMALLEST,
    SMALLEST + 1,
    SMALLEST + BLOCK_ELEMENTS - 1,
    SMALLEST + BLOCK_ELEMENTS,
    1_000_003,
    16_777_216,
    40_000_001,
]


def layout_of(*tensors: tuple[torch.dtype, int]) -> LayerLayout:
    return LayerLayout.of(
        "",
        [
            TensorRecipe(f"t{number}", dtype, (elements,), (), None)
            for number, (dtype, elements) in enumerate(tensors)
        ],
    )


def weights(layout: LayerLayout, *, strays: int = 3000) -> torch.Tensor:
    """A buffer on the CPU: normal weights, among them any bits at all."""
    raw = torch.zeros(layout.size_bytes, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(layout.size_bytes)
    for view in layout.views(raw).values():
        view.copy_(torch.empty(view.shape).normal_(std=0.02, generator=generator))
        if view.dtype == torch.bfloat16 and strays:
            places = torch.randint(len(view), (strays,), generator=generator)
            bits = torch.randint(-(2**15), 2**15, (strays,), generator=generator)
            view.view(torch.int16)[places] = bits.to(torch.int16)
    return raw


def packed_of(raw: torch.Tensor, layout: LayerLayout) -> PackedLayer:
    packed = pack_layer(raw, layout)
    assert packed is not None
    return packed


def blank(packed: PackedLayer) -> torch.Tensor:
    return torch.full((packed.format.raw_size_bytes,), 0xA5, dtype=torch.uint8, device="cuda")


@pytest.fixture(autouse=True)
def kernels_are_there() -> None:
    pytest.importorskip("triton", reason="needs Triton")
    assert unpacking._kernels() is not None


@pytest.mark.parametrize("elements", SIZES)
@pytest.mark.parametrize("strays", [0, 3000])
def test_both_devices_make_the_same_blob_and_decode_it(elements: int, strays: int) -> None:
    layout = layout_of((torch.bfloat16, elements))
    raw = weights(layout, strays=strays)
    on_cpu, on_gpu = packed_of(raw, layout), packed_of(raw.cuda(), layout)
    assert on_gpu.format == on_cpu.format
    assert torch.equal(on_gpu.blob.cpu(), on_cpu.blob)
    out = blank(on_gpu)
    unpack_into(on_gpu.blob, on_gpu.format, out)
    assert torch.equal(out.cpu(), raw)


def test_every_value_that_bf16_has_is_decoded_by_the_kernels() -> None:
    layout = layout_of((torch.bfloat16, 16 * 2**16))
    raw = weights(layout)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    layout.views(raw)["t0"].view(torch.int16)[5 : 5 + 2**16] = every
    packed = packed_of(raw.cuda(), layout)
    out = blank(packed)
    unpack_into(packed.blob, packed.format, out)
    assert torch.equal(out.cpu(), raw)


def test_mixed_layers_come_back_in_longer_slots() -> None:
    layout = layout_of(
        (torch.float32, 33),
        (torch.bfloat16, 2 * SMALLEST + 5),
        (torch.float16, 1001),
        (torch.bfloat16, SMALLEST + 1),
        (torch.bfloat16, 3000),
    )
    raw = weights(layout, strays=50)
    packed = packed_of(raw.cuda(), layout)
    assert len(packed.format.packed) == 2
    slot = torch.cat((packed.blob, torch.zeros(4096, dtype=torch.uint8, device="cuda")))
    out = torch.full((layout.size_bytes + 512,), 9, dtype=torch.uint8, device="cuda")
    unpack_into(slot, packed.format, out)
    assert torch.equal(out[: layout.size_bytes].cpu(), raw)
    assert (out[layout.size_bytes :] == 9).all()


def test_torch_decodes_the_same_bits_there_without_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = layout_of((torch.bfloat16, 20_000_001))
    raw = weights(layout)
    packed = packed_of(raw.cuda(), layout)
    monkeypatch.setattr(unpacking, "_kernels", lambda: None)
    out = blank(packed)
    unpack_into(packed.blob, packed.format, out)
    assert torch.equal(out.cpu(), raw)


def test_decoding_allocates_nothing_on_the_device() -> None:
    layout = layout_of((torch.bfloat16, 10_000_001), (torch.float32, 100))
    packed = packed_of(weights(layout).cuda(), layout)
    out = blank(packed)
    unpack_into(packed.blob, packed.format, out)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    counted = torch.cuda.memory_stats()["allocation.all.allocated"]
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        unpack_into(packed.blob, packed.format, out)
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() == before
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == counted


def test_decoding_waits_for_nothing() -> None:
    layout = layout_of((torch.bfloat16, 1_000_001))
    raw = weights(layout)
    packed = packed_of(raw.cuda(), layout)
    out = blank(packed)
    unpack_into(packed.blob, packed.format, out)
    torch.cuda.set_sync_debug_mode("error")
    try:
        unpack_into(packed.blob, packed.format, out)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), raw)


@pytest.mark.parametrize("elements", [SMALLEST, 1_000_003, 40_000_001])
def test_a_captured_graph_decodes_what_is_in_the_slot_when_it_is_replayed(elements: int) -> None:
    layout = layout_of((torch.bfloat16, elements), (torch.float32, 7))
    first = weights(layout)
    second = first.clone()
    values = layout.views(second)["t0"].view(torch.int16)
    values.copy_(values.flip(0))
    packed, other = packed_of(first.cuda(), layout), packed_of(second.cuda(), layout)
    assert packed.format == other.format
    slot, out = packed.blob.clone(), blank(packed)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        unpack_into(slot, packed.format, out)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        unpack_into(slot, packed.format, out)
    for layer, expected in ((packed, first), (other, second), (packed, first)):
        slot.copy_(layer.blob)
        out.fill_(0xA5)
        graph.replay()
        assert torch.equal(out.cpu(), expected)


def test_a_damaged_list_of_escapes_reaches_no_memory_outside_of_its_stretch() -> None:
    layout = layout_of((torch.bfloat16, 2 * SMALLEST))
    raw = weights(layout, strays=100)
    packed = packed_of(raw.cuda(), layout)
    positions = StretchParts.of(packed.blob, packed.format.packed[0]).positions
    positions.copy_(
        torch.tensor([-1, 2 * SMALLEST, 2**31 - 1, -(2**31)], dtype=torch.int32).repeat(
            len(positions) // 4
        )
    )
    memory = torch.full((3 * layout.size_bytes,), 9, dtype=torch.uint8, device="cuda")
    out = memory[layout.size_bytes : 2 * layout.size_bytes]
    unpack_into(packed.blob, packed.format, out)
    torch.cuda.synchronize()
    assert (memory[: layout.size_bytes] == 9).all()
    assert (memory[2 * layout.size_bytes :] == 9).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_layer_is_decoded_on_the_device_where_it_is() -> None:
    layout = layout_of((torch.bfloat16, 1_000_003))
    raw = weights(layout)
    packed = packed_of(raw.to("cuda:1"), layout)
    out = torch.zeros(layout.size_bytes, dtype=torch.uint8, device="cuda:1")
    with torch.cuda.device(0):
        unpack_into(packed.blob, packed.format, out)
    assert torch.equal(out.cpu(), raw)
