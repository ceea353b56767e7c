"""The generic backend on an accelerator; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHORT = GenerationConfig(max_new_tokens=24)


@pytest.fixture
def on_gpu(saved_llama: Path) -> Iterator[LoadedRuntime]:
    with RuntimeLoader().load(RuntimeConfig(saved_llama, dtype="float32")) as runtime:
        yield runtime


def test_automatic_placement_takes_the_gpu_while_the_model_fits(on_gpu: LoadedRuntime) -> None:
    assert on_gpu.device.type == "cuda"
    assert on_gpu.plan.placement.accelerator_layers == 2
    use = on_gpu.memory()
    assert use.accelerator_weights_bytes > 0
    assert use.host_weights_bytes == 0


def test_the_tokens_are_those_of_transformers_on_the_same_device(on_gpu: LoadedRuntime) -> None:
    prompt = torch.arange(2, 40).reshape(2, 19)
    expected = on_gpu.model.generate(prompt.to(on_gpu.device), do_sample=False, max_new_tokens=24)
    assert torch.equal(on_gpu.generate(prompt, SHORT), expected)


def test_the_same_model_on_the_cpu_is_another_plan_and_gives_its_own_tokens(
    on_gpu: LoadedRuntime, saved_llama: Path
) -> None:
    prompt = torch.arange(2, 21)[None]
    with RuntimeLoader().load(RuntimeConfig(saved_llama, device="cpu", dtype="float32")) as on_cpu:
        assert on_cpu.device.type == "cpu"
        expected = on_cpu.model.generate(prompt, do_sample=False, max_new_tokens=24)
        assert torch.equal(on_cpu.generate(prompt, SHORT), expected)


def test_closing_gives_the_gpus_memory_back(saved_llama: Path) -> None:
    # The workspaces of matrix products stay with the process.
    RuntimeLoader().load(RuntimeConfig(saved_llama, device="cuda:0")).close()
    before = torch.cuda.memory_allocated()
    runtime = RuntimeLoader().load(RuntimeConfig(saved_llama, device="cuda:0"))
    assert torch.cuda.memory_allocated() > before
    runtime.close()
    assert torch.cuda.memory_allocated() == before


def test_a_window_bounds_attention_there_too(on_gpu: LoadedRuntime) -> None:
    cache = on_gpu.get_or_create_kv_cache(strategy="sliding-window-ring-buffer", window_tokens=8)
    prompt = torch.arange(2, 50)[None]
    on_gpu.generate(prompt, SHORT, kv_cache=cache)
    assert all(layer.held_tokens == 8 for layer in cache.layers)
    assert on_gpu.memory().accelerator_kv_bytes > 0
