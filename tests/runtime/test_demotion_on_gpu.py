"""Runtimes that leave an accelerator and come back; skipped where there is none."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import Cancelled, OutOfMemory
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.selector import BackendSelector
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    DECODERS,
    LAYERS,
    MIXTURES,
    named,
    prompts,
    save_large,
    save_lively,
    with_tokenizer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHORT = GenerationConfig(max_new_tokens=12)
PROMPT = prompts([40]).input_ids
MORE = prompts([9], seed=4).input_ids
LLAMA = named("llama")
PLACES: dict[str, dict[str, Any]] = {
    "resident": {},
    "half in host memory": {"offload_gpu_layers": 2, "offload_cpu_layers": 3},
    "some on disk": {"offload_gpu_layers": 1, "offload_cpu_layers": 2},
    "generic": {"backend": "transformers-generic"},
}


@pytest.fixture(scope="module")
def folder_of(
    saved_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Architecture], Path]:
    root = tmp_path_factory.mktemp("demoted")

    def folder(architecture: Architecture) -> Path:
        path = root / architecture.model_type
        if not path.exists():
            with_tokenizer(save_lively(architecture, path), saved_llama, architecture)
        return path

    return folder


@pytest.fixture(scope="module")
def large(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 layers of 12 MiB."""
    return save_large(saved_llama, tmp_path_factory.mktemp("gpu") / "large", 24)


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Let torch take only so many bytes beyond what it holds."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(more_bytes: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        share = (torch.cuda.memory_reserved() + more_bytes) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def load(folder: Path, **settings: Any) -> LoadedRuntime:
    settings = {"dtype": "float32", "backend": "optimized-native", **settings}
    return RuntimeLoader().load(RuntimeConfig(folder, device="cuda:0", **settings))


def allocated() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def allocated_by_us() -> int:
    """Bytes without the workspaces of matrix products; nothing may be captured now."""
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    return allocated()


def conversation(runtime: LoadedRuntime, between: Callable[[], None]) -> list[torch.Tensor]:
    """Ask, do something, and go on from the answer; then ask something else."""
    runtime.reset_kv_cache_instances()
    first = runtime.generate(PROMPT, SHORT)
    between()
    second = runtime.generate(torch.cat([first, MORE.to(first)], dim=1), SHORT)
    between()
    return [first, second, runtime.generate(MORE, SHORT)]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, some, others))


# ---------------------------------------------------------------------- the same tokens


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_are_those_of_a_runtime_that_never_left(
    place: str, dtype: str, folder_of: Callable[[Architecture], Path]
) -> None:
    with load(folder_of(LLAMA), dtype=dtype, **PLACES[place]) as runtime:
        wanted = conversation(runtime, lambda: None)
        captured = _captured(runtime)
        for _ in range(2):
            assert same(conversation(runtime, runtime.demote), wanted)
            assert _captured(runtime) == captured


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_every_architecture_comes_back_the_same(
    architecture: Architecture, folder_of: Callable[[Architecture], Path]
) -> None:
    with load(folder_of(architecture)) as runtime:
        wanted = conversation(runtime, lambda: None)
        assert same(conversation(runtime, runtime.demote), wanted)


class _StreamingExperts(BackendSelector):
    """Plans as ever, with all layers in host memory and experts that come one by one."""

    def select(self, *args: Any, **options: Any) -> RuntimePlan:
        plan = super().select(*args, **options)
        streaming = replace(
            plan.streaming, expert_streaming=True, expert_slots=16, expert_cache_bytes=64 * 1024
        )
        return plan.refine(streaming=streaming)


@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_hot_experts_may_go_and_the_tokens_stay(
    architecture: Architecture, folder_of: Callable[[Architecture], Path]
) -> None:
    config = RuntimeConfig(
        folder_of(architecture),
        backend="optimized-native",
        device="cuda:0",
        dtype="float32",
        offload_gpu_layers=0,
        offload_cpu_layers=LAYERS,
    )
    with RuntimeLoader(selector=_StreamingExperts()).load(config) as runtime:
        wanted = conversation(runtime, lambda: None)
        assert same(conversation(runtime, runtime.demote), wanted)


def test_a_conversation_keeps_what_was_computed(
    folder_of: Callable[[Architecture], Path],
) -> None:
    with load(folder_of(LLAMA)) as runtime:
        first = runtime.generate(PROMPT, SHORT)
        before = runtime.memory()
        runtime.demote()
        away = runtime.memory()
        assert away.accelerator_bytes == 0
        assert 0 < away.host_kv_bytes <= before.accelerator_kv_bytes
        runtime.generate(torch.cat([first, MORE.to(first)], dim=1), SHORT)
        reuse = runtime._caches.reuse_of(None)
        assert reuse is not None
        assert reuse.last.kept_tokens == first.shape[1] - 1


def test_steps_are_captured_when_it_is_back(folder_of: Callable[[Architecture], Path]) -> None:
    with load(folder_of(LLAMA)) as runtime:
        runtime.generate(PROMPT, SHORT)
        assert _captured(runtime)
        runtime.demote()
        assert not _captured(runtime)
        runtime.restore()
        assert _captured(runtime)


def test_two_runtimes_take_turns_on_the_accelerator(
    folder_of: Callable[[Architecture], Path],
) -> None:
    other = next(each for each in DECODERS if each.model_type == "qwen3")
    with load(folder_of(LLAMA)) as first, load(folder_of(other)) as second:
        wanted = [runtime.generate(PROMPT, SHORT) for runtime in (first, second)]
        for _ in range(3):
            second.demote()
            assert torch.equal(first.generate(PROMPT, SHORT), wanted[0])
            first.demote()
            assert torch.equal(second.generate(PROMPT, SHORT), wanted[1])


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("place", PLACES)
def test_every_byte_comes_back_to_the_accelerator(
    place: str, folder_of: Callable[[Architecture], Path]
) -> None:
    # What libraries make on first use stays with the process.
    with load(folder_of(LLAMA), **PLACES[place]) as runtime:
        runtime.generate(PROMPT, SHORT)
    before = allocated_by_us()
    with load(folder_of(LLAMA), **PLACES[place]) as runtime:
        runtime.generate(PROMPT, SHORT)
        held = runtime.memory()
        for _ in range(2):
            assert allocated() > before
            runtime.demote()
            assert allocated_by_us() <= before
            away = runtime.memory()
            assert away.accelerator_bytes == 0
            assert away.host_weights_bytes >= held.accelerator_weights_bytes
            runtime.generate(PROMPT, SHORT)
            assert runtime.memory().accelerator_bytes == held.accelerator_bytes
        runtime.demote()
    assert allocated_by_us() <= before


def test_others_get_what_was_given_back(large: Path) -> None:
    with load(large, dtype="bfloat16") as runtime:
        runtime.generate(PROMPT, SHORT)
        held = runtime.memory().accelerator_weights_bytes
        free = torch.cuda.mem_get_info()[0]
        runtime.demote()
        assert torch.cuda.mem_get_info()[0] - free >= 0.99 * held


def test_twenty_times_take_no_more_memory_than_the_first(large: Path) -> None:
    process = psutil.Process()
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(PROMPT, SHORT)
        runtime.demote()
        runtime.generate(PROMPT, SHORT)
        sizes = []
        for _ in range(20):
            runtime.demote()
            away = process.memory_info().rss, allocated()
            assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)
            sizes.append((*away, allocated()))
        for first, last in zip(sizes[0], sizes[-1], strict=True):
            assert last <= 1.01 * first


def test_the_copy_is_made_once_and_can_be_given_up(large: Path) -> None:
    with load(large, dtype="bfloat16") as runtime:
        runtime.demote()
        size = runtime.memory().host_weights_bytes
        runtime.restore()
        assert 0.99 * size <= runtime.memory().host_copy_bytes <= size
        runtime.release_host_copy()
        assert runtime.memory().host_copy_bytes == 0
        assert runtime.memory().host_weights_bytes == 0


# ---------------------------------------------------------------------- what goes wrong


def test_a_cancel_on_the_way_back_leaves_it_away(large: Path) -> None:
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(PROMPT, SHORT)
        runtime.demote()
        updates: list[object] = []
        runtime.restore(updates.append)
        for after in (0, 1, len(updates) // 2):
            runtime.demote()
            away, left = runtime.memory(), allocated_by_us()
            cancel = threading.Event()
            calls = 0

            def progress(_update: object, last: int = after, event: Any = cancel) -> None:
                nonlocal calls
                calls += 1
                if calls > last:
                    event.set()
                    # Whoever waits passes it on, which takes longer than so small a model's way.
                    job = runtime._worker._running
                    assert job is not None
                    assert job.cancel.wait(10)

            with pytest.raises(Cancelled):
                runtime.restore(progress, cancel)
            assert runtime.demoted
            assert runtime.memory() == away
            assert allocated_by_us() == left
            assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def test_a_full_accelerator_is_said_and_it_stays_away_and_whole(
    large: Path, limited: Callable[[int], None]
) -> None:
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(PROMPT, SHORT)
        runtime.demote()
        away = runtime.memory()
        limited(0)
        with pytest.raises(OutOfMemory, match="GiB are free"):
            runtime.restore()
        with pytest.raises(OutOfMemory, match="GiB are free"):
            runtime.generate(PROMPT, SHORT)
        assert runtime.demoted
        assert runtime.memory() == away
        torch.cuda.set_per_process_memory_fraction(1.0)
        assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)
        assert runtime.plan.placement.accelerator_layers == 24


def test_layers_for_which_there_is_no_room_any_more_are_streamed(
    large: Path, limited: Callable[[int], None]
) -> None:
    with load(large, dtype="bfloat16") as runtime:
        wanted = runtime.generate(PROMPT, SHORT)
        runtime.demote()
        limited(150 * 2**20)
        runtime.restore()
        assert 0 < runtime.plan.placement.accelerator_layers < 24
        assert any("ran out of memory" in detail for detail in runtime.plan.details)
        assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)
        runtime.demote()
        assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def _captured(runtime: LoadedRuntime) -> bool:
    loaded = runtime._loaded
    return loaded is not None and loaded.steps is not None and loaded.steps.captured
