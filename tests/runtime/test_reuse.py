"""Prompts that begin like one before: the same answer, fewer tokens computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.kv.persistent.store import PrefixStore
from ollm_widgets.planning.ids import BackendId
from ollm_widgets.runtime.answering import Request, generate_ids
from ollm_widgets.runtime.generation import run_generate
from ollm_widgets.runtime.reuse import PrefixReuse
from ollm_widgets.weights.steps.eager import EagerSteps
from tests.kv.persistent.prefixes import fingerprint
from tests.models.architectures import build
from tests.weights.streamed_models import greedy, named, prompts, save_lively, with_tokenizer

NEW = 5
SHORT = GenerationConfig(max_new_tokens=NEW)
# Full attention; sliding and full; linear and full; latent attention; sliding only.
KINDS = ("llama", "gemma2", "qwen3_next", "deepseek_v3", "gemma3_text")
Load = Callable[..., LoadedRuntime]


@pytest.fixture(scope="module")
def load(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    root = tmp_path_factory.mktemp("reuse")
    loaded: dict[tuple[str, BackendId], LoadedRuntime] = {}

    def load(kind: str, backend: BackendId = "transformers-generic") -> LoadedRuntime:
        folder = root / kind
        if not folder.exists():
            with_tokenizer(save_lively(named(kind), folder), saved_llama, named(kind))
        if (kind, backend) not in loaded:
            config = RuntimeConfig(folder, backend=backend, device="cpu", dtype="float32")
            loaded[kind, backend] = RuntimeLoader().load(config)
        return loaded[kind, backend]

    yield load
    for runtime in loaded.values():
        runtime.close()


class Passes:
    """Counts the tokens that pass a model."""

    def __init__(self, runtime: LoadedRuntime) -> None:
        self.tokens = 0
        embeddings = runtime.model.get_input_embeddings()
        self._hook = embeddings.register_forward_pre_hook(self._count)

    def _count(self, _module: object, args: tuple[torch.Tensor, ...]) -> None:
        self.tokens += args[0].shape[-1]

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_error: object) -> None:
        self._hook.remove()


def anew(runtime: LoadedRuntime, ids: torch.Tensor) -> torch.Tensor:
    """What transformers gives without anything from before."""
    return greedy(runtime.model, prompts_of(ids), NEW)


def prompts_of(ids: torch.Tensor) -> Any:
    from tests.weights.streamed_models import Prompts

    return Prompts(ids, torch.ones_like(ids))


def stopped(
    runtime: LoadedRuntime, ids: torch.Tensor, layer: int, after_tokens: int = 0
) -> torch.Tensor:
    """Ask, and cancel behind a layer, in the pass after so many tokens."""
    cancel, passes = threading.Event(), 0

    def stop(*_args: object) -> None:
        nonlocal passes
        if passes == after_tokens:
            cancel.set()
        passes += 1

    mask = torch.ones_like(ids)
    request = Request(ids, mask, SHORT, NEW, cancel, reuse=runtime._caches.reuse_of(None))
    hook = runtime.model.get_decoder().layers[layer].register_forward_hook(stop)
    try:
        return generate_ids(runtime._open(), runtime.plan, request, lambda _ids: False)
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_next_turn_computes_only_what_is_new(load: Load, kind: str) -> None:
    runtime = load(kind)
    ids = prompts([20]).input_ids
    for turn in range(3):
        expected = anew(runtime, ids)
        with Passes(runtime) as passes:
            answer = runtime.generate(ids, SHORT)
        assert torch.equal(answer, expected)
        if turn:
            # The last token of the answer, the new question, and each new token but the last.
            assert passes.tokens == 1 + 7 + NEW - 1
        ids = torch.cat([answer, prompts([7], seed=turn + 9).input_ids], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_turn_goes_back_to_where_it_differs(load: Load, kind: str) -> None:
    runtime = load(kind)
    first = prompts([30]).input_ids
    runtime.generate(first, SHORT)
    edited = first.clone()
    edited[0, 24:] = prompts([6], seed=5).input_ids
    expected = anew(runtime, edited)
    with Passes(runtime) as passes:
        assert torch.equal(runtime.generate(edited, SHORT), expected)
    # Only what keeps every token can go back.
    goes_back = kind in ("llama", "deepseek_v3")
    assert passes.tokens == (6 if goes_back else 30) + NEW - 1


@pytest.mark.parametrize("backend", ["transformers-generic", "optimized-native"])
def test_the_same_prompt_again_runs_its_last_token_only(load: Load, backend: BackendId) -> None:
    runtime = load("llama", backend)
    ids = prompts([40], seed=3).input_ids
    expected = runtime.generate(ids, SHORT)
    with Passes(runtime) as passes:
        assert torch.equal(runtime.generate(ids, SHORT), expected)
    assert passes.tokens == NEW


def test_an_answer_says_what_was_reused(load: Load) -> None:
    runtime = load("llama")
    runtime.generate(prompts([4]).input_ids, SHORT)
    first = runtime.complete("w5 w6 w7 w8 w9 w10", SHORT)
    again = runtime.complete("w5 w6 w7 w8 w9 w11 w12", SHORT)
    assert (first.reused_tokens, again.reused_tokens) == (0, 5)
    assert "5 of them reused" in again.to_text()


def test_batches_are_neither_continued_nor_kept(load: Load) -> None:
    runtime = load("llama")
    padded = prompts([20, 9], seed=4)
    for _ in range(2):
        with Passes(runtime) as passes:
            runtime.generate(padded.input_ids, SHORT, attention_mask=padded.attention_mask)
        assert passes.tokens == 20 + NEW - 1
    assert runtime.memory().host_kv_bytes == 0


def test_a_request_that_was_stopped_leaves_a_runtime_that_answers_right(load: Load) -> None:
    runtime = load("qwen3_next")
    ids = prompts([25], seed=6).input_ids
    expected = anew(runtime, ids)
    for stop_at in range(len(runtime.model.get_decoder().layers) - 1):
        runtime.generate(ids[:, :12], SHORT)
        assert stopped(runtime, ids, stop_at).shape == ids.shape
        assert torch.equal(runtime.generate(ids, SHORT), expected)


@pytest.mark.parametrize("after_tokens", [0, 2])
def test_what_a_stopped_request_had_begun_with_is_still_there(
    load: Load, after_tokens: int
) -> None:
    runtime = load("llama")
    first = runtime.generate(prompts([20], seed=11).input_ids, SHORT)
    longer = torch.cat([first, prompts([9], seed=12).input_ids], dim=1)
    so_far = stopped(runtime, longer, 1, after_tokens)
    assert so_far.shape[1] == longer.shape[1] + after_tokens
    expected = anew(runtime, longer)
    with Passes(runtime) as passes:
        assert torch.equal(runtime.generate(longer, SHORT), expected)
    assert torch.equal(so_far, expected[:, : so_far.shape[1]])
    # What the stopped one had completed is not run again, but for the last token of the prompt.
    assert passes.tokens == (1 if after_tokens else 1 + 9) + NEW - 1


def test_a_request_that_fails_leaves_a_runtime_that_answers_right(load: Load) -> None:
    runtime = load("llama")
    ids = prompts([25], seed=7).input_ids
    expected = anew(runtime, ids)
    runtime.generate(ids[:, :12], SHORT)

    def fail(*_args: object) -> None:
        raise RuntimeError("injected")

    hook = runtime.model.get_decoder().layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="injected"):
        runtime.generate(ids, SHORT)
    hook.remove()
    assert torch.equal(runtime.generate(ids, SHORT), expected)


def test_without_a_cache_nothing_is_kept(load: Load) -> None:
    folder = load("llama").model_path
    config = RuntimeConfig(folder, device="cpu", dtype="float32", use_cache=False)
    with RuntimeLoader().load(config) as runtime:
        ids = prompts([12]).input_ids
        assert torch.equal(runtime.generate(ids, SHORT), anew(runtime, ids))
        assert runtime.memory().host_kv_bytes == 0


@pytest.mark.parametrize("backend", ["transformers-generic", "optimized-native"])
@pytest.mark.parametrize("kind", ["llama", "qwen3_next", "gemma2"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_came_before_the_answer_is_the_same(
    load: Load, kind: str, backend: BackendId, data: st.DataObject
) -> None:
    runtime = load(kind, backend)
    base = prompts([40], seed=8).input_ids
    for _ in range(data.draw(st.integers(2, 4), label="requests")):
        length = data.draw(st.integers(1, 40), label="tokens")
        changed = data.draw(st.integers(0, 40), label="first that differs")
        ids = base[:, :length].clone()
        ids[:, changed:] = (ids[:, changed:] + 1) % 50 + 3
        assert torch.equal(runtime.generate(ids, SHORT), anew(runtime, ids))


def test_steps_that_ran_before_take_what_is_found_on_disk(tmp_path: Path) -> None:
    model = build(named("llama")).float().eval()
    ids = prompts([100], seed=4).input_ids
    mask, steps = torch.ones_like(ids), EagerSteps(model, torch.device("cpu"))

    def ask(reuse: PrefixReuse) -> torch.Tensor:
        start = reuse.start(ids, mask, NEW, steps, threading.Event())
        run = run_generate(
            model,
            ids,
            mask,
            SHORT,
            new_tokens=NEW,
            cache=start.cache,
            cancel=threading.Event(),
            watch=lambda _ids: False,
            steps=steps,
            keep=start.kept_tokens,
        )
        reuse.finished(run.ids, steps)
        return run.ids

    def reuse() -> PrefixReuse:
        store = PrefixStore.open(tmp_path, fingerprint(), layout="segments", codec="full")
        return PrefixReuse(DynamicCache, store)

    with closing(reuse()) as first:
        expected = ask(first)
    # The cache of the steps stays as it was allocated, in inference mode.
    with closing(reuse()) as second:
        assert torch.equal(ask(second), expected)
        assert second.last.restored_tokens == 99
