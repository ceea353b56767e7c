"""A trace of a model on an accelerator; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import ConfigError
from tests.weights.streamed_models import prompts, save_streamable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LAYERS = 6
NEW = 60
PROMPT = prompts([19])
ASKED = GenerationConfig(max_new_tokens=NEW)
PLACES: dict[str, dict[str, Any]] = {
    "resident": {"offload_gpu_layers": LAYERS, "offload_cpu_layers": 0},
    "streamed": {"offload_gpu_layers": 0, "offload_cpu_layers": LAYERS},
    "half": {"offload_gpu_layers": LAYERS // 2, "offload_cpu_layers": LAYERS - LAYERS // 2},
}


@pytest.fixture(scope="module")
def folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streamable(saved_llama, tmp_path_factory.mktemp("streamable") / "llama", LAYERS)


def load(folder: Path, **settings: Any) -> LoadedRuntime:
    return RuntimeLoader().load(
        RuntimeConfig(folder, backend="optimized-native", dtype="float32", **settings)
    )


def answer(runtime: LoadedRuntime) -> torch.Tensor:
    runtime.reset_kv_cache_instances()
    return runtime.generate(PROMPT.input_ids, ASKED)


@pytest.mark.parametrize("place", PLACES)
def test_a_traced_answer_is_the_same_and_its_steps_stay_captured(place: str, folder: Path) -> None:
    with load(folder, **PLACES[place]) as runtime:
        wanted = answer(runtime)
        for _ in range(2):
            with runtime.trace() as trace:
                assert torch.equal(answer(runtime), wanted)
            prompt, *steps = trace.passes
            assert prompt.tokens == PROMPT.input_ids.shape[1]
            assert not prompt.captured
            assert steps
            assert all(step.captured and not step.note for step in steps)
            positions = [step.position for step in steps]
            assert positions == sorted(positions)
            assert trace.captured_steps + trace.unrecorded_steps >= NEW - 1
            assert all(len(step.layers) == LAYERS for step in steps)
        assert torch.equal(answer(runtime), wanted)


def test_a_trace_goes_on_while_layers_move(folder: Path) -> None:
    with load(folder, **PLACES["resident"]) as runtime:
        wanted = answer(runtime)
        with runtime.trace() as trace:
            answer(runtime)
            runtime.rebalance(offload_gpu_layers=0, offload_cpu_layers=LAYERS)
            assert torch.equal(answer(runtime), wanted)
        places = {layer.tier for step in trace.passes if step.captured for layer in step.layers}
        assert places == {"accelerator", "host"}


def test_a_trace_within_a_trace_is_refused(folder: Path) -> None:
    with load(folder, **PLACES["resident"]) as runtime, runtime.trace() as trace:
        with pytest.raises(ConfigError, match="traced already"), runtime.trace():
            pass
        answer(runtime)
    assert trace.captured_steps
