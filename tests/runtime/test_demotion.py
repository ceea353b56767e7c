"""A runtime that leaves its accelerator and comes back; here a CPU stands for the accelerator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.backends.base import LoadProgress
from ollm_widgets.errors import Cancelled, ConfigError, OutOfMemory, RuntimeClosedError
from ollm_widgets.runtime.demotion import Demotion
from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.weights import host_copies
from tests.weights.streamed_models import prompts, save_streamable

BACKENDS = ("optimized-native", "transformers-generic")
SHORT = GenerationConfig(max_new_tokens=6)
PROMPT = prompts([19]).input_ids


@pytest.fixture(scope="module")
def folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streamable(saved_llama, tmp_path_factory.mktemp("demoted") / "llama", 4)


def load(folder: Path, backend: str = BACKENDS[0], **more: Any) -> LoadedRuntime:
    return RuntimeLoader().load(
        RuntimeConfig(folder, backend=backend, device="cpu", dtype="float32", **more)
    )


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend; what a CPU holds may leave it."""
    monkeypatch.setattr(Demotion, "possible", True)
    name: str = request.param
    return name


@pytest.fixture
def runtime(folder: Path, backend: str) -> Iterator[LoadedRuntime]:
    with load(folder, backend) as loaded:
        yield loaded


def cancelled() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.mark.parametrize("name", BACKENDS)
def test_on_a_cpu_nothing_can_be_demoted(folder: Path, name: str) -> None:
    with load(folder, name) as runtime:
        assert not runtime.can_demote
        with pytest.raises(ConfigError, match=r"nothing of llama on cpu could go to host memory"):
            runtime.demote()
        runtime.restore()
        assert not runtime.demoted


def test_the_tokens_are_the_same_after_any_number_of_times(runtime: LoadedRuntime) -> None:
    wanted = runtime.generate(PROMPT, SHORT)
    before = runtime.memory()
    for _ in range(3):
        assert runtime.can_demote
        runtime.demote()
        assert runtime.demoted
        assert not runtime.can_demote
        runtime.restore()
        assert not runtime.demoted
        assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)
    after = runtime.memory()
    assert after.host_copy_bytes > 0
    assert after.host_bytes - after.host_copy_bytes == before.host_bytes


def test_a_request_brings_it_back_by_itself(runtime: LoadedRuntime) -> None:
    wanted = runtime.generate(PROMPT, SHORT)
    text = runtime.complete("w5 w6 w7", SHORT).text
    for ask in (
        lambda: torch.equal(runtime.generate(PROMPT, SHORT), wanted),
        lambda: runtime.complete("w5 w6 w7", SHORT).text == text,
        lambda: bool(runtime.compare_kv("w5 w6 w7", ["resident"], new_tokens=2)),
    ):
        runtime.demote()
        assert ask()
        assert not runtime.demoted


def test_demoting_or_returning_twice_does_nothing(runtime: LoadedRuntime) -> None:
    wanted = runtime.generate(PROMPT, SHORT)
    runtime.restore()
    runtime.demote()
    use = runtime.memory()
    runtime.demote()
    assert runtime.memory() == use
    runtime.restore()
    runtime.restore()
    assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def test_a_conversation_goes_on_where_it_was(runtime: LoadedRuntime) -> None:
    ids = runtime.generate(PROMPT, SHORT)
    longer = torch.cat([ids, PROMPT[:, :5]], dim=1)
    wanted = runtime.generate(longer, SHORT)
    runtime.reset_kv_cache_instances()
    runtime.generate(PROMPT, SHORT)
    kept = runtime.kv_stats().tokens
    assert kept == ids.shape[1] - 1
    runtime.demote()
    assert runtime.memory().host_kv_bytes > 0
    reuse = runtime._caches.reuse_of(None)
    assert reuse is not None
    assert torch.equal(runtime.generate(longer, SHORT), wanted)
    assert reuse.last.kept_tokens == kept


def test_a_cache_that_was_handed_out_goes_along(runtime: LoadedRuntime) -> None:
    cache = runtime.get_or_create_kv_cache()
    ids = runtime.generate(PROMPT, SHORT, kv_cache=cache)
    wanted = runtime.generate(torch.cat([ids, ids[:, :3]], dim=1), SHORT)
    runtime.demote()
    runtime.restore()
    assert cache.get_seq_length() == ids.shape[1] - 1
    more = torch.cat([ids, ids[:, :3]], dim=1)
    assert torch.equal(runtime.generate(more, SHORT, kv_cache=cache), wanted)


@pytest.mark.parametrize("strategy", ["paged", "sliding-window-ring-buffer"])
def test_caches_of_other_kinds_answer_as_if_nothing_had_happened(
    folder: Path, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Demotion, "possible", True)
    more = {"kv_cache_window_tokens": 64} if "window" in strategy else {}
    settings = {"kv_cache_strategy": strategy, "cache_dir": tmp_path, **more}
    longer = torch.cat([PROMPT, PROMPT[:, :5]], dim=1)
    with load(folder, **settings) as runtime:
        wanted = [runtime.generate(ids, SHORT) for ids in (PROMPT, longer)]
        runtime.reset_kv_cache_instances()
        assert torch.equal(runtime.generate(PROMPT, SHORT), wanted[0])
        runtime.demote()
        assert torch.equal(runtime.generate(longer, SHORT), wanted[1])


def test_the_way_back_is_told_in_bytes(runtime: LoadedRuntime) -> None:
    runtime.demote()
    told: list[LoadProgress] = []
    runtime.restore(told.append)
    assert {each.stage for each in told} == {"Return to the accelerator"}
    done = [each.done_bytes for each in told]
    assert done == sorted(done)
    assert done[-1] == told[-1].total_bytes > 0


def test_a_cancel_leaves_it_as_it_was(runtime: LoadedRuntime) -> None:
    wanted = runtime.generate(PROMPT, SHORT)
    with pytest.raises(Cancelled):
        runtime.demote(cancelled())
    assert not runtime.demoted
    assert runtime.memory().host_copy_bytes == 0
    runtime.demote()
    away = runtime.memory()
    with pytest.raises(Cancelled):
        runtime.restore(cancel=cancelled())
    assert runtime.demoted
    assert runtime.memory() == away
    assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def test_host_memory_that_runs_out_is_said_and_it_goes_on_answering(
    runtime: LoadedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = runtime.generate(PROMPT, SHORT)

    def refuse(size_bytes: int) -> Any:
        raise OutOfMemory("no more", tier="host", needed_bytes=size_bytes, free_bytes=0)

    with monkeypatch.context() as patched:
        patched.setattr(host_copies, "HostBuffer", refuse)
        with pytest.raises(OutOfMemory):
            runtime.demote()
    assert not runtime.demoted
    assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def test_its_copy_stays_unless_it_is_not_wanted(runtime: LoadedRuntime) -> None:
    wanted = runtime.generate(PROMPT, SHORT)
    runtime.demote()
    runtime.restore()
    kept = runtime.memory()
    runtime.release_host_copy()
    assert runtime.memory().host_bytes == kept.host_bytes - kept.host_copy_bytes
    runtime.keeps_host_copy = False
    runtime.demote()
    runtime.release_host_copy()
    runtime.restore()
    assert runtime.memory().host_copy_bytes == 0
    assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)


def test_it_leaves_behind_the_request_that_runs(runtime: LoadedRuntime) -> None:
    wanted = runtime.complete("w5 w6", GenerationConfig(max_new_tokens=40)).text
    stream = runtime.stream("w5 w6", GenerationConfig(max_new_tokens=40))
    text = next(stream).text
    leaving = threading.Thread(target=runtime.demote)
    leaving.start()
    assert text + "".join(piece.text for piece in stream) == wanted
    leaving.join(30)
    assert runtime.demoted


def test_closing_gives_back_what_is_away(runtime: LoadedRuntime) -> None:
    runtime.generate(PROMPT, SHORT)
    runtime.demote()
    runtime.close()
    assert runtime.memory() == MemoryUse()
    assert not runtime.demoted
    assert not runtime.can_demote
    assert runtime._demotion.host_copies_bytes == 0
    with pytest.raises(RuntimeClosedError):
        runtime.demote()
    with pytest.raises(RuntimeClosedError):
        runtime.restore()
    runtime.release_host_copy()


def test_layers_move_and_are_traced_only_where_they_are_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Demotion, "possible", True)
    with load(folder) as runtime:
        wanted = runtime.generate(PROMPT, SHORT)
        runtime.demote()
        assert runtime.rebalance(offload_cpu_layers=1).host_layers == 1
        assert not runtime.demoted
        runtime.demote()
        with runtime.trace() as trace:
            assert torch.equal(runtime.generate(PROMPT, SHORT), wanted)
        assert trace.passes
