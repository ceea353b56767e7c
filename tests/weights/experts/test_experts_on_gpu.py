"""Chosen experts fetched by kernels from host memory; skipped where there is no CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from ollm_widgets.weights.experts.cache import AddressedCache
from ollm_widgets.weights.experts.slots import (
    alignment_of,
    assign_slots,
    device_address,
    gather_rows,
)
from ollm_widgets.weights.experts.sources import HostExperts, stacked_bytes
from ollm_widgets.weights.experts.streaming import ExpertLayer, ExpertStreaming
from ollm_widgets.weights.pinned import HostBuffer
from tests.models.architectures import Architecture
from tests.weights.streamed_experts import (
    MIXTURES,
    Listed,
    Streamed,
    expert_bytes,
    experts_of,
    whole_model,
    without_experts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda", 0)
SHAPES = [(1,), (3,), (7, 5), (16,), (129, 3), (33, 64), (2880,), (1536, 2048)]
DTYPES = [torch.bfloat16, torch.float32, torch.uint8]


def random_rows(experts: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(0, 120, (experts, *shape)).to(dtype)


def addresses_of(stacked: torch.Tensor) -> torch.Tensor:
    base = device_address(stacked, GPU)
    assert base is not None
    row_bytes = stacked[0].numel() * stacked.element_size()
    return base + torch.arange(stacked.shape[0]) * row_bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_gathers_what_index_select_gives(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    host = random_rows(12, shape, dtype).pin_memory()
    table = addresses_of(host)
    row_bytes = host[0].numel() * host.element_size()
    alignment = alignment_of(table.tolist(), row_bytes)
    for chosen in ([3], [11, 0, 5], [7, -1, 7, 2, -1], list(range(12))):
        rows = torch.tensor(chosen)
        out = torch.full((len(chosen), *shape), 121, device=GPU).to(dtype)
        gather_rows(table.to(GPU), rows.to(GPU), out, alignment)
        expected = host.index_select(0, rows.clamp(min=0))
        expected[rows < 0] = 121
        assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_host_memory_and_the_cache_mix_in_one_gather(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    host = random_rows(8, shape, dtype)
    buffer = HostBuffer(host.numel() * host.element_size())
    buffer.lock()
    try:
        stacked = buffer.tensor.view(dtype).view(host.shape)
        stacked.copy_(host)
        source = HostExperts({"weight": stacked})
        assert source.pinned
        cache = AddressedCache([source], 3 * stacked_bytes(source.tensors, 1), GPU)
        cache.usage(0)[torch.tensor([1, 4, 6], device=GPU)] = 1
        assert cache.rebalance() == 3
        out = torch.zeros_like(host, device=GPU)
        alignment = alignment_of([stacked.data_ptr()], source.tensors[0].row_bytes)
        gather_rows(cache.table(0)[0], torch.arange(8, device=GPU), out, alignment)
        assert torch.equal(out.cpu(), host)
        # The cached ones come from the cache: host memory no longer matters to them.
        stacked.zero_()
        gather_rows(cache.table(0)[0], torch.arange(8, device=GPU), out, alignment)
        cached = torch.tensor([1, 4, 6])
        assert torch.equal(out.cpu()[cached], host[cached])
        assert not out.cpu()[torch.tensor([0, 2, 3, 5, 7])].any()
        cache.close()
        del stacked, source
    finally:
        torch.cuda.synchronize()
        buffer.close()


@pytest.mark.parametrize("kind", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("pairs", [1, 2, 8, 24, 64, 100, 128, 129, 500])
def test_slots_are_those_of_the_cpu(pairs: int, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(pairs)
    for experts in (1, 4, 60, 128, 512):
        index = torch.randint(-1, experts + 1, (pairs,), generator=generator).to(kind)
        rows = min(pairs, experts)
        for device in (torch.device("cpu"), GPU):
            remapped = torch.full((pairs,), 99, device=device)
            chosen = torch.full((rows,), 99, device=device)
            usage = torch.zeros(experts, dtype=torch.int32, device=device)
            assign_slots(index.to(device), remapped, chosen, usage, experts)
            if device.type == "cpu":
                expected = remapped, chosen, usage
        for mine, wanted in zip((remapped, chosen, usage), expected, strict=True):
            assert torch.equal(mine.cpu(), wanted)


@contextmanager
def streamed_on_gpu(
    model: PreTrainedModel,
    *,
    slots: int = 6,
    cached: int = 0,
    whole_layers: int = 1,
    pinned: bool = True,
) -> Iterator[Streamed]:
    """A copy of a model on the GPU whose experts stay in host memory."""
    sources = []
    for _, module, names in experts_of(model):
        tensors = {name: module.get_parameter(name).detach().cpu() for name in names}
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        source = HostExperts(tensors)
        sources.append(source if pinned else Listed(source))
    bare = without_experts(model)
    modules = tuple(module for _, module, _ in experts_of(bare))
    streaming = ExpertStreaming(
        [ExpertLayer(*each) for each in zip(modules, sources, strict=True)],
        device=GPU,
        slots=slots,
        cache_bytes=cached * expert_bytes(sources),
        whole_layers=whole_layers,
    )
    assert streaming.capturable == pinned
    streaming.install()
    try:
        yield Streamed(bare, streaming, modules)
    finally:
        streaming.close()


@pytest.fixture(params=MIXTURES, ids=str)
def mixture(request: pytest.FixtureRequest) -> PreTrainedModel:
    architecture: Architecture = request.param
    return whole_model(architecture, torch.float32).to(GPU)


PROMPTS = [
    torch.arange(3, 9)[None],
    torch.tensor([[2, 9, 5, 9, 11, 4], [2, 3, 4, 5, 6, 7], [3, 9, 8, 3, 2, 33]]),
    (torch.arange(60) * 7 % 61 + 2)[None],
]


def close_to(model: PreTrainedModel, other: PreTrainedModel) -> None:
    for prompt in PROMPTS:
        for part in (prompt[:, :1], prompt):
            with torch.no_grad():
                mine, wanted = other(part.to(GPU)).logits, model(part.to(GPU)).logits
            # A prompt in pieces multiplies matrices of other shapes, which add in another order.
            torch.testing.assert_close(mine, wanted, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("whole_layers", [0, 1, 2])
def test_logits_are_those_of_the_whole_model(
    mixture: PreTrainedModel, implementation: str, pinned: bool, whole_layers: int
) -> None:
    mixture.set_experts_implementation(implementation)
    with streamed_on_gpu(mixture, cached=3, pinned=pinned, whole_layers=whole_layers) as own:
        own.model.set_experts_implementation(implementation)
        for _ in range(3):
            close_to(mixture, own.model)
            own.streaming.rebalance()
        traffic = own.streaming.traffic()
        # With two whole layers a small model's prompts need nothing from the cache.
        assert traffic.hits > 0 or whole_layers == 2
        assert traffic.misses > 0


def test_grouped_products_of_half_precision_agree_too() -> None:
    model = whole_model(MIXTURES[0], torch.bfloat16).to(GPU)
    model.set_experts_implementation("grouped_mm")
    with streamed_on_gpu(model, cached=3, whole_layers=2) as own:
        own.model.set_experts_implementation("grouped_mm")
        for prompt in PROMPTS:
            with torch.no_grad():
                mine, wanted = own.model(prompt.to(GPU)).logits, model(prompt.to(GPU)).logits
            torch.testing.assert_close(mine, wanted, rtol=0.02, atol=0.02)


def test_a_captured_call_follows_the_router_and_the_cache(mixture: PreTrainedModel) -> None:
    mixture.set_experts_implementation("batched_mm")
    whole = experts_of(mixture)[0][1]
    with streamed_on_gpu(mixture, cached=4) as own, torch.inference_mode():
        own.model.set_experts_implementation("batched_mm")
        module = own.modules[0]
        hidden = torch.randn(2, 32, device=GPU)
        index = torch.tensor([[0, 1, 2], [3, 1, 4]], device=GPU)
        weights = torch.rand(2, 3, device=GPU)
        result = captured(module, hidden, index, weights)
        generator = torch.Generator().manual_seed(0)
        for step in range(40):
            index.copy_(torch.stack([torch.randperm(8, generator=generator)[:3] for _ in range(2)]))
            hidden.normal_()
            weights.uniform_()
            result.replay()
            expected = whole(hidden, index, weights)
            torch.testing.assert_close(result.out, expected, rtol=1e-5, atol=1e-5)
            if step % 8 == 7:
                own.streaming.rebalance()
        traffic = own.streaming.traffic()
        assert traffic.hits > 0
        assert traffic.misses > 0


def test_nothing_is_allocated_and_nothing_waited_for_in_a_small_call(
    mixture: PreTrainedModel,
) -> None:
    mixture.set_experts_implementation("batched_mm")
    with streamed_on_gpu(mixture) as own, torch.inference_mode():
        own.model.set_experts_implementation("batched_mm")
        hidden = torch.randn(1, 32, device=GPU)
        index = torch.tensor([[1, 5]], device=GPU)
        weights = torch.rand(1, 2, device=GPU)
        own.modules[0](hidden, index, weights)
        before = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                own.modules[0](hidden, index, weights)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_allocated() == before


def test_a_capture_of_more_than_fits_is_refused_and_other_calls_go_on() -> None:
    model = whole_model(MIXTURES[0]).to(GPU)
    model.set_experts_implementation("batched_mm")
    whole = experts_of(model)[0][1]
    with streamed_on_gpu(model, slots=3) as own, torch.inference_mode():
        own.model.set_experts_implementation("batched_mm")
        hidden, weights = torch.randn(4, 32, device=GPU), torch.rand(4, 3, device=GPU)
        index = torch.tensor([[0, 1, 2], [3, 1, 4], [7, 6, 5], [0, 6, 3]], device=GPU)
        with pytest.raises(ValueError, match="chooses 12"):
            captured(own.modules[0], hidden, index, weights)
        mine = own.modules[0](hidden, index, weights)
        torch.testing.assert_close(mine, whole(hidden, index, weights))
        result = captured(own.modules[0], hidden[:1], index[:1], weights[:1])
        result.replay()
        torch.testing.assert_close(result.out, whole(hidden[:1], index[:1], weights[:1]))


def test_closing_gives_the_memory_back() -> None:
    model = whole_model(MIXTURES[0]).to(GPU)
    close_to(model, model)  # the matrix library takes a workspace of its own
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with streamed_on_gpu(model, cached=5, whole_layers=2) as own:
        taken = torch.cuda.memory_allocated() - before
        assert own.streaming.device_bytes <= taken
        with torch.no_grad():
            own.model(PROMPTS[2].to(GPU))
    del own
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


class captured:  # noqa: N801  (reads as what it is)
    """A call of a module in a graph, and its static result."""

    def __init__(self, module: nn.Module, *arguments: torch.Tensor) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                module(*arguments)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.out = module(*arguments)

    def replay(self) -> None:
        self._graph.replay()


def test_a_copy_of_the_model_is_not_disturbed_by_the_streamed_one(mixture: PreTrainedModel) -> None:
    twin = copy.deepcopy(mixture)
    with streamed_on_gpu(mixture) as own:
        close_to(twin, own.model)
    close_to(twin, mixture)
