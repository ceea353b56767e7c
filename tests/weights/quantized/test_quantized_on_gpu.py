"""Quantized weights on a CUDA device; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.quantized import expanding
from ollm_widgets.weights.quantized.form import StoredForm
from ollm_widgets.weights.reading.reader import WeightReader
from tests.weights.on_gpu import GPU, PLACEMENTS, RING, on_gpu
from tests.weights.quantized.samples import fp8_tensor, mxfp4_tensor, same_bits
from tests.weights.quantized_models import QUANTIZED, expanded, quantize
from tests.weights.streamed_models import (
    BATCHES,
    CPU,
    LAYERS,
    engine_of,
    greedy,
    save_large,
    save_lively,
    with_tokenizer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FP8 = (
    ((5, 64), (1, 1)),
    ((4096, 4096), (32, 32)),
    ((1000, 1030), (10, 103)),
    ((7, 768, 2048), (7, 6, 16)),
    ((300_000, 64), (1, 1)),
)
MXFP4 = ((1, 5, 1), (3, 70, 3), (8, 5760, 90))
FolderOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def quantized_folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    root = tmp_path_factory.mktemp("quantized")

    def folder(name: str) -> Path:
        path = root / name.replace(" ", "-")
        if not path.exists():
            architecture, method = QUANTIZED[name]
            quantize(save_lively(architecture, path), method)
            with_tokenizer(path, saved_llama, architecture)
        return path

    return folder


# ---------------------------------------------------------------------- bits


@pytest.mark.parametrize("without_kernels", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "grid"), FP8)
def test_8_bit_values_have_the_bits_of_the_cpu(
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    dtype: torch.dtype,
    without_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if without_kernels:
        monkeypatch.setattr(expanding, "_kernels", lambda: None)
    for scales in DTYPES:
        values, factors = fp8_tensor(shape, grid, scales)
        wanted = torch.empty(shape, dtype=dtype)
        expanding.expand_fp8(values, factors, wanted)
        out = torch.full(shape, 5.0, dtype=dtype, device=GPU)
        expanding.expand_fp8(values.to(GPU), factors.to(GPU), out)
        assert same_bits(out.cpu(), wanted)


@pytest.mark.parametrize("without_kernels", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", MXFP4)
def test_4_bit_values_have_the_bits_of_the_cpu(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    without_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if without_kernels:
        monkeypatch.setattr(expanding, "_kernels", lambda: None)
    values, scales = mxfp4_tensor(*shape)
    wanted = torch.empty(shape[0], 32 * shape[2], shape[1], dtype=dtype)
    expanding.expand_mxfp4(values, scales, wanted)
    out = torch.full_like(wanted, 5.0, device=GPU)
    expanding.expand_mxfp4(values.to(GPU), scales.to(GPU), out)
    assert same_bits(out.cpu(), wanted)


def test_rows_that_were_not_chosen_are_left_as_they_are() -> None:
    chosen = torch.tensor([4, -1, 0], device=GPU)
    values, scales = fp8_tensor((3, 256, 512), (3, 2, 4), torch.float32)
    blocks, exponents = mxfp4_tensor(3, 256, 4)
    for expand, parts, shape in (
        (expanding.expand_fp8, (values, scales), (3, 256, 512)),
        (expanding.expand_mxfp4, (blocks, exponents), (3, 128, 256)),
    ):
        wanted = torch.empty(shape)
        expand(*parts, wanted)
        out = torch.full(shape, 7.0, device=GPU)
        expand(*(part.to(GPU) for part in parts), out, chosen)
        assert same_bits(out[[0, 2]].cpu(), wanted[[0, 2]])
        assert bool((out[1] == 7).all())


def captured(work: Callable[[], None]) -> tuple[torch.cuda.CUDAGraph, int]:
    """Capture, and say what that has allocated."""
    before = torch.cuda.memory_allocated()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph, torch.cuda.memory_allocated() - before


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_captured_graph_expands_whatever_is_in_the_slot(
    name: str, quantized_folder: FolderOf
) -> None:
    folder = quantized_folder(name)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(build_skeleton(folder, torch.bfloat16, CPU, "causal-lm"), index)
    forms, layers = [], []
    with WeightReader(index, threads=2) as reader:
        for number in range(LAYERS):
            form = StoredForm.of(LayerLayout.of(f"model.layers.{number}", recipes.values()))
            assert form is not None
            stored = torch.zeros(form.size_bytes, dtype=torch.uint8)
            reader.read(form.layout, stored).wait()
            forms.append(form)
            layers.append(stored)
    form = forms[0]
    slot, out = layers[0].to(GPU), torch.zeros(form.raw_size_bytes, dtype=torch.uint8, device=GPU)
    form.expand_into(slot, out)
    torch.cuda.synchronize()
    # A graph has a state for random numbers, which another may have allocated before.
    _idle, empty_bytes = captured(lambda: None)
    graph, taken_bytes = captured(lambda: form.expand_into(slot, out))
    assert taken_bytes <= empty_bytes
    for stored in layers:
        slot.copy_(stored)
        graph.replay()
        wanted = torch.zeros(form.raw_size_bytes, dtype=torch.uint8)
        form.expand_into(stored, wanted)
        for view, own in zip(
            form.raw.views(out).values(), form.raw.views(wanted).values(), strict=True
        ):
            assert same_bits(view.cpu(), own)


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize("experts", [False, True], ids=["whole layers", "single experts"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_tokens_in_float32_are_those_of_the_expanded_model_in_every_tier(
    name: str, experts: bool, quantized_folder: FolderOf
) -> None:
    architecture, method = QUANTIZED[name]
    folder = quantized_folder(name)
    # Some releases of transformers leave what they expand in bfloat16.
    whole = torch.nn.Module.to(expanded(folder, method, torch.float32), GPU, torch.float32)
    wanted = {batch: greedy(whole, on_gpu(prompt)) for batch, prompt in BATCHES.items()}
    streaming = RING
    if experts:
        streaming = replace(
            RING, expert_streaming=True, expert_slots=6, expert_cache_bytes=16 * 1024
        )
    with engine_of(
        architecture, folder, dtype=torch.float32, streaming=streaming, device=GPU
    ) as engine:
        for tiers in PLACEMENTS.values():
            assert engine.rebalance(LayerPlacement(tiers)).tiers == tiers
            for batch, prompt in BATCHES.items():
                assert torch.equal(greedy(engine.model, on_gpu(prompt)), wanted[batch])


@pytest.mark.parametrize("name", QUANTIZED)
def test_layers_on_the_accelerator_have_the_bits_of_transformers(
    name: str, quantized_folder: FolderOf
) -> None:
    architecture, method = QUANTIZED[name]
    folder = quantized_folder(name)
    whole = expanded(folder, method, torch.bfloat16).state_dict()
    tiers = PLACEMENTS["all on the accelerator"]
    with engine_of(architecture, folder, dtype=torch.bfloat16, tiers=tiers, device=GPU) as engine:
        for key, value in engine.model.state_dict().items():
            assert same_bits(value.cpu(), whole[key]), key


@pytest.mark.parametrize("name", QUANTIZED)
def test_captured_steps_stream_stored_layers_and_give_the_same_tokens(
    name: str, quantized_folder: FolderOf
) -> None:
    folder = quantized_folder(name)
    short = GenerationConfig(max_new_tokens=24)
    wanted: dict[str, torch.Tensor] = {}
    for counts in (
        {},
        {"offload_gpu_layers": 0, "offload_cpu_layers": LAYERS},
        {"offload_gpu_layers": 2, "offload_cpu_layers": 3},
        {"offload_gpu_layers": 1, "offload_cpu_layers": 2},
    ):
        config = RuntimeConfig(folder, backend="optimized-native", dtype="float32", **counts)
        with RuntimeLoader().load(config) as runtime:
            captured = runtime.plan.streaming.captured_steps
            assert captured == (runtime.plan.placement.disk_layers == 0)
            loaded = runtime._loaded
            assert loaded is not None
            for batch, prompt in BATCHES.items():
                got = runtime.generate(
                    prompt.input_ids, short, attention_mask=prompt.attention_mask
                ).cpu()
                assert torch.equal(got, wanted.setdefault(batch, got))
                # There is room in a captured step for the experts of one sequence.
                if captured and loaded.steps is not None and batch == "one":
                    assert loaded.steps.refusal is None


# ---------------------------------------------------------------------- bytes


def test_each_tier_holds_what_was_planned_to_a_hundredth(saved_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    save_large(saved_llama, folder, 6)
    quantize(folder, "fp8")
    config = RuntimeConfig(
        folder,
        backend="optimized-native",
        dtype="bfloat16",
        offload_gpu_layers=1,
        offload_cpu_layers=3,
    )
    with RuntimeLoader().load(config) as runtime:
        plan, use = runtime.plan, runtime.memory()
        assert not plan.streaming.packed
        gpu, ram, disk = (plan.memory.tier(place) for place in ("gpu", "ram", "disk"))
        assert gpu is not None
        assert ram is not None
        assert disk is not None
        stored = plan.streaming.stored_slot_bytes
        assert 0.5 < stored / plan.streaming.slot_bytes < 0.53
        assert ram.layers_bytes == 3 * stored
        assert disk.layers_bytes == 2 * stored
        for measured, planned in (
            (use.accelerator_weights_bytes, gpu.layers_bytes + gpu.embeddings_bytes),
            (use.accelerator_staging_bytes, gpu.staging_bytes),
            (use.host_weights_bytes, ram.layers_bytes),
            (use.host_staging_bytes, ram.staging_bytes),
            (use.disk_weights_bytes, disk.layers_bytes),
        ):
            assert measured == pytest.approx(planned, rel=0.01)
