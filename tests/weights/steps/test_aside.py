"""Caches and steps that go to host memory for a while; here a CPU stands for the accelerator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from ollm_widgets.errors import OutOfMemory
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.weights import host_copies
from ollm_widgets.weights.copy_streams import CopyStreams
from ollm_widgets.weights.steps.aside import SetAside, can_leave
from ollm_widgets.weights.steps.fixed_cache import FixedCache
from tests.models.architectures import ARCHITECTURES, Architecture, build
from tests.weights.replaying import TracedSteps

CPU = torch.device("cpu")
DECODERS = [a for a in ARCHITECTURES if a.kind not in ("seq2seq-lm", "speech-seq2seq")]
PROMPT = torch.arange(3, 12)[None]
MORE = torch.arange(20, 25)[None]


def model_of(model_type: str = "llama") -> PreTrainedModel:
    architecture = next(each for each in DECODERS if each.model_type == model_type)
    return build(architecture).float().eval()


def converse(
    steps: TracedSteps, between: Callable[[], None], ids: torch.Tensor = PROMPT
) -> list[list[int]]:
    """Answer, do something, and go on from what was said; or begin anew where steps cannot."""
    batch, prompt = ids.shape
    steps.begin(batch, 60)
    steps.prefill(ids, torch.ones_like(ids))
    said = [steps.chosen.clone()]
    for _ in range(5):
        steps.step()
        said.append(steps.chosen.clone())
    between()
    ids = torch.cat([ids, *said, MORE.expand(batch, -1)], dim=1)
    keep = prompt + 5 if steps.resumable and steps.tokens else 0
    steps.begin(batch, 60, keep=keep)
    steps.prefill(ids, torch.ones_like(ids))
    said.append(steps.chosen.clone())
    for _ in range(5):
        steps.step()
        said.append(steps.chosen.clone())
    return [each.flatten().tolist() for each in said]


def there_and_back(steps: TracedSteps, *caches: Cache) -> None:
    captured = steps.leave()
    held = (*caches, *([] if steps.cache is None else [steps.cache]))
    aside = SetAside(held, (steps,), "cpu")
    aside.come_back(CopyStreams())
    aside.close()
    if captured:
        steps.capture_again()


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_conversation_goes_on_as_if_nothing_had_happened(architecture: Architecture) -> None:
    model = build(architecture).float().eval()
    wanted = converse(TracedSteps(model, CPU), lambda: None)
    steps = TracedSteps(model, CPU)
    captured = []

    def between() -> None:
        captured.append(steps.captured)
        there_and_back(steps)
        captured.append(steps.captured)

    assert converse(steps, between) == wanted
    assert captured[0] == captured[1]


def test_several_sequences_go_on_too() -> None:
    model = model_of()
    two = torch.cat([PROMPT, PROMPT + 20])
    wanted = converse(TracedSteps(model, CPU), lambda: None, two)
    steps = TracedSteps(model, CPU)
    assert converse(steps, lambda: there_and_back(steps), two) == wanted


def test_steps_that_have_answered_nothing_yet_leave_and_come_back() -> None:
    model = model_of()
    wanted = converse(TracedSteps(model, CPU), lambda: None)
    steps = TracedSteps(model, CPU)
    there_and_back(steps)
    steps.begin(1, 60)
    there_and_back(steps)
    assert steps.captured
    assert converse(steps, lambda: None) == wanted


def test_only_what_is_filled_of_a_cache_moves() -> None:
    steps = TracedSteps(model_of(), CPU)
    sizes = []

    def between() -> None:
        cache = steps.cache
        assert isinstance(cache, FixedCache)
        steps.leave()
        aside = SetAside((cache,), (), "cpu")
        filled = sum(each.keys[0, :, 0].nbytes for each in cache.fixed_layers) * 2 * steps.tokens
        sizes.append((aside.size_bytes, filled))
        assert cache.stats().accelerator_bytes == filled
        aside.come_back(CopyStreams())
        assert all(each.keys.shape[2] == steps.capacity for each in cache.fixed_layers)
        assert all(not each.keys[:, :, steps.tokens :].any() for each in cache.fixed_layers)
        steps.capture_again()

    converse(steps, between)
    ((size, filled),) = sizes
    assert filled <= size <= filled + 512 * 5


def test_a_return_that_is_taken_back_can_be_repeated() -> None:
    model = model_of()
    wanted = converse(TracedSteps(model, CPU), lambda: None)
    steps = TracedSteps(model, CPU)

    def between() -> None:
        assert steps.cache is not None
        steps.leave()
        aside = SetAside((steps.cache,), (steps,), "cpu")
        for _ in range(2):
            aside.come_back(CopyStreams())
            steps.capture_again()
            steps.leave()
            aside.leave_again()
        aside.come_back(CopyStreams())
        aside.close()
        steps.capture_again()

    assert converse(steps, between) == wanted


def test_a_step_that_cannot_be_captured_again_is_captured_by_the_next_request() -> None:
    model = model_of()
    wanted = converse(TracedSteps(model, CPU), lambda: None)

    class Refusing(TracedSteps):
        refuses_now = False

        def _record(self, step: Any) -> Any:
            if self.refuses_now:
                raise RuntimeError("a kernel is not there")
            return super()._record(step)

    steps = Refusing(model, CPU)

    def between() -> None:
        steps.refuses_now = True
        there_and_back(steps)
        steps.refuses_now = False
        assert not steps.captured
        assert steps.refusal is None
        assert steps.cache is None

    assert converse(steps, between) == wanted
    assert steps.captured


# ---------------------------------------------------------------------- other caches


@torch.no_grad()
def go_on(model: PreTrainedModel, cache: Cache, between: Callable[[], None]) -> torch.Tensor:
    """Logits of what follows a prompt that is in a cache."""
    model(input_ids=PROMPT, past_key_values=cache)
    between()
    rest = model(input_ids=MORE[:, :3], past_key_values=cache).logits
    last = model(input_ids=MORE[:, 3:4], past_key_values=cache).logits
    return torch.cat([rest, last], dim=1)


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_caches_of_transformers_come_back_with_every_bit(architecture: Architecture) -> None:
    model = build(architecture).float().eval()
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        pytest.skip("it takes its cache by another name")
    cache = DynamicCache(config=model.config)
    if not can_leave(cache):
        pytest.skip("its layers are its own")

    def between() -> None:
        aside = SetAside((cache,), (), "cpu")
        aside.come_back(CopyStreams())
        aside.close()

    wanted = go_on(model, DynamicCache(config=model.config), lambda: None)
    assert torch.equal(go_on(model, cache, between), wanted)


def test_a_sliding_window_comes_back_too() -> None:
    model = model_of()
    cache = build_cache(model, "sliding-window-ring-buffer", 6, sink_tokens=2)
    assert can_leave(cache)

    def between() -> None:
        aside = SetAside((cache,), (), "cpu")
        aside.come_back(CopyStreams())
        aside.close()

    other = build_cache(model, "sliding-window-ring-buffer", 6, sink_tokens=2)
    assert torch.equal(go_on(model, cache, between), go_on(model, other, lambda: None))


def test_a_cache_with_tiers_of_its_own_cannot_leave(tmp_path: Path) -> None:
    model = model_of()
    cache: Any = build_cache(model, "paged", budget=KVBudget(1 << 16, 1 << 16), folder=tmp_path)
    with cache:
        assert not can_leave(cache)


def test_a_cache_that_was_emptied_meanwhile_stays_empty() -> None:
    model = model_of()
    cache = DynamicCache(config=model.config)

    def between() -> None:
        aside = SetAside((cache,), (), "cpu")
        cache.crop(-cache.get_seq_length())
        aside.come_back(CopyStreams())
        aside.close()
        assert cache.get_seq_length() == 0

    go_on(model, cache, between)


def test_host_memory_that_runs_out_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    cache = DynamicCache(config=model.config)

    def refuse(size_bytes: int) -> Any:
        raise OutOfMemory("no more", tier="host", needed_bytes=size_bytes, free_bytes=0)

    def between() -> None:
        before = [layer.keys for layer in cache.layers]
        monkeypatch.setattr(host_copies, "HostBuffer", refuse)
        with pytest.raises(OutOfMemory):
            SetAside((cache,), (), "cpu")
        assert all(a.keys is b for a, b in zip(cache.layers, before, strict=True))

    wanted = go_on(model, DynamicCache(config=model.config), lambda: None)
    assert torch.equal(go_on(model, cache, between), wanted)
