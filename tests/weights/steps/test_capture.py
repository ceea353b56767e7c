"""Captured steps as far as they show without a CUDA device, and what they are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ollm_widgets.weights.steps.capture import CapturedSteps
from ollm_widgets.weights.steps.eager import EagerSteps, capacity_for
from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache
from ollm_widgets.weights.steps.fused import fused_norms
from tests.models.architectures import ARCHITECTURES, Architecture, build
from tests.weights.replaying import TracedSteps

CPU = torch.device("cpu")
DECODERS = [a for a in ARCHITECTURES if a.kind not in ("seq2seq-lm", "speech-seq2seq")]

# Falcon indexes by a Python list; tiny gemma3 replaces image tokens beyond its vocabulary.
UPLOADING = {"falcon", "gemma3"}


def tiny_llama(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **settings})).eval()


def greedy(steps: EagerSteps, ids: torch.Tensor, new: int, **begin: Any) -> list[list[int]]:
    steps.begin(ids.shape[0], ids.shape[1] + new, **begin)
    steps.prefill(ids, torch.ones_like(ids))
    tokens = [steps.chosen.flatten().tolist()]
    for _ in range(new - 1):
        steps.step()
        tokens.append(steps.chosen.flatten().tolist())
    return tokens


def expected(model: PreTrainedModel, ids: torch.Tensor, new: int) -> list[list[int]]:
    out = model.generate(ids, do_sample=False, max_new_tokens=new, eos_token_id=None)
    tokens: list[list[int]] = out[:, ids.shape[1] :].T.tolist()
    return tokens


PROMPT = torch.arange(3, 12)[None]


@given(tokens=st.integers(1, 300_000), context=st.none() | st.integers(1, 200_000))
def test_a_capacity_holds_the_request_and_is_shared_by_many(
    tokens: int, context: int | None
) -> None:
    capacity = capacity_for(tokens, context)
    assert capacity >= tokens
    assert capacity <= max(512, 2 * tokens)
    if context is not None and tokens <= context:
        assert capacity <= context
    assert capacity == context or capacity in (512, 1024, 2048) or capacity % 4096 == 0
    assert capacity < tokens + 4096


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_step_that_knows_only_fixed_addresses_does_what_the_model_does(
    architecture: Architecture,
) -> None:
    model = build(architecture).float().eval()
    steps = TracedSteps(model, CPU)
    assert greedy(steps, PROMPT, 30) == expected(model, PROMPT, 30)
    if architecture.model_type in UPLOADING:
        assert steps.refusal == "the model makes a tensor out of Python numbers in each step"
    else:
        assert steps.refusal is None
        assert steps.captured


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_second_turn_that_goes_on_from_the_first_does_what_the_model_does(
    architecture: Architecture,
) -> None:
    model = build(architecture).float().eval()
    steps = TracedSteps(model, CPU)
    said = greedy(steps, PROMPT, 8)
    if not steps.resumable:
        pytest.skip("its last tokens cannot be taken back, so that every turn begins anew")
    turn = torch.cat([PROMPT, torch.tensor(said[:-1]).T, PROMPT + 7], dim=1)
    answer = greedy(steps, turn, 12, keep=steps.tokens)
    assert answer == expected(model, turn, 12)
    whole = torch.cat([turn, torch.tensor(answer[:-1]).T], dim=1)
    with torch.inference_mode():
        wanted = model(whole, use_cache=False).logits[:, -1]
    # Closer than tokens show: those of a tiny model hardly depend on where they stand.
    torch.testing.assert_close(steps._logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_prompt_of_which_all_but_the_last_token_is_kept_is_a_captured_step(
    architecture: Architecture,
) -> None:
    model = build(architecture).float().eval()
    steps = TracedSteps(model, CPU)
    answer = greedy(steps, PROMPT, 12)
    if not steps.resumable or not steps.captured:
        pytest.skip("its last tokens cannot be taken back, or its steps are not captured")
    longer = torch.cat([PROMPT, torch.tensor(answer[:4]).T], dim=1)
    passes: list[object] = []
    hook = model.register_forward_pre_hook(lambda _model, _inputs: passes.append(None))
    for prompt, new in ((PROMPT, 12), (longer, 8), (PROMPT, 12)):
        again = greedy(steps, prompt, new, keep=prompt.shape[1] - 1)
        assert again == answer[12 - new :]
    assert not passes
    hook.remove()
    whole = torch.cat([PROMPT, torch.tensor(answer[:-1]).T], dim=1)
    with torch.inference_mode():
        wanted = model(whole, use_cache=False).logits[:, -1]
    torch.testing.assert_close(steps._logits, wanted, rtol=1e-4, atol=1e-5)


def test_a_step_is_captured_once_for_all_requests_that_fit() -> None:
    model = tiny_llama()
    captures = []

    class Counting(TracedSteps):
        def _record(self, step: Any) -> Any:
            captures.append((self._batch, self.capacity))
            return super()._record(step)

    steps = Counting(model, CPU)
    for new in (4, 30, 9):
        assert greedy(steps, PROMPT, new) == expected(model, PROMPT, new)
    assert captures == [(1, 512)]
    # Growth and another batch need another one; the old one is gone then.
    steps.begin(1, 900)
    steps.begin(1, 40)
    assert captures == [(1, 512), (1, 1024)]
    two = torch.cat([PROMPT, PROMPT + 20])
    assert greedy(steps, two, 9) == expected(model, two, 9)
    assert captures[2:] == [(2, 512)]
    # One that expects padding does for prompts without, not the other way round.
    steps.begin(2, 40, padded=True)
    assert greedy(steps, two, 9) == expected(model, two, 9)
    assert len(captures) == 4


def test_a_much_too_large_cache_is_given_up() -> None:
    steps = TracedSteps(tiny_llama(), CPU)
    steps.begin(1, 4096)
    assert steps.capacity == 4096
    steps.begin(1, 300)
    assert steps.capacity == 4096
    steps = TracedSteps(tiny_llama(max_position_embeddings=32768), CPU)
    steps.begin(1, 5000)
    steps.begin(1, 300)
    assert steps.capacity == 512


def test_addresses_stay_from_the_capture_on() -> None:
    steps = TracedSteps(tiny_llama(), CPU)
    steps.begin(1, 100)

    def addresses() -> list[int]:
        assert isinstance(steps.cache, FixedCache)
        kept = [steps.chosen, steps._logits, steps._positions, steps.cache.clock.position]
        kept += [states for layer in steps.cache.layers for states in (layer.keys, layer.values)]
        return [tensor.data_ptr() for tensor in kept]

    before = addresses()
    for new in (3, 20):
        greedy(steps, PROMPT, new)
        assert addresses() == before


def test_without_cuda_steps_are_eager_and_say_why() -> None:
    model = tiny_llama()
    steps = CapturedSteps(model, CPU)
    assert greedy(steps, PROMPT, 9) == expected(model, PROMPT, 9)
    assert steps.refusal == "captured steps need a CUDA device"
    assert not steps.captured
    steps.close()
    assert steps.cache is None


def test_a_model_that_counts_on_the_host_is_refused_and_runs_eagerly() -> None:
    model = tiny_llama()
    calls = 0

    def shift(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return logits.roll(calls, dims=-1)

    hook = model.lm_head.register_forward_hook(shift)
    steps = TracedSteps(model, CPU)
    steps.begin(1, 100)
    assert steps.refusal == "a replayed step does not repeat the eager one"
    assert not steps.captured
    hook.remove()
    assert greedy(steps, PROMPT, 9) == expected(model, PROMPT, 9)


def test_attention_that_heeds_no_mask_is_refused() -> None:
    model = tiny_llama()
    model.config._attn_implementation = "flex_attention"
    steps = TracedSteps(model, CPU)
    steps.begin(1, 100)
    assert steps.refusal == "flex_attention attention does not stop at the last token"


def test_a_failure_in_the_capture_is_remembered_and_steps_are_eager() -> None:
    model = tiny_llama()
    forgotten = []

    class Failing(TracedSteps):
        def _record(self, step: Any) -> Any:
            raise RuntimeError("no such kernel\nwith a long trace")

    steps = Failing(model, CPU, forget=lambda: forgotten.append(True))
    assert greedy(steps, PROMPT, 9) == expected(model, PROMPT, 9)
    assert steps.refusal == "RuntimeError: no such kernel"


def test_what_happens_on_other_streams_is_forked_and_joined_in_every_step() -> None:
    calls: list[str] = []
    model = tiny_llama()
    steps = TracedSteps(
        model,
        CPU,
        before_step=lambda: calls.append("before"),
        after_step=lambda: calls.append("after"),
        settle=lambda: calls.append("settle"),
    )
    steps.begin(1, 100)
    step = ["settle", "before", "after"]
    # Two eager ones, the capture, and two replays that are looked at.
    assert calls == [*step, *step, *step, "settle", "settle"]
    calls.clear()
    greedy(steps, PROMPT, 9)
    assert calls == ["settle"]


def test_a_cancel_during_the_capture_is_no_refusal() -> None:
    model = tiny_llama()

    class Cancelled(BaseException):
        pass

    def cancel(*_args: Any) -> None:
        raise Cancelled

    steps = TracedSteps(model, CPU)
    hook = model.model.layers[1].register_forward_pre_hook(cancel)
    with pytest.raises(Cancelled):
        steps.begin(1, 100)
    hook.remove()
    assert greedy(steps, PROMPT, 9) == expected(model, PROMPT, 9)
    assert steps.captured


def test_more_tokens_than_there_is_room_for_are_an_error() -> None:
    steps = TracedSteps(tiny_llama(max_position_embeddings=12), CPU)
    steps.begin(1, 12)
    steps.prefill(PROMPT, torch.ones_like(PROMPT))
    for _ in range(3):
        steps.step()
    with pytest.raises(ValueError, match="room for 12 tokens"):
        steps.step()


def test_padding_that_was_not_announced_is_an_error() -> None:
    steps = EagerSteps(tiny_llama(), CPU)
    steps.begin(1, 100)
    with pytest.raises(ValueError, match="padded=True"):
        steps.prefill(PROMPT, torch.tensor([[0] * 3 + [1] * 6]))


@settings(max_examples=40, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    sliding=st.booleans(),
    keep=st.integers(0, 5),
)
def test_before_the_steps_the_cache_is_transformers_dynamic_one(
    chunks: list[int], sliding: bool, keep: int
) -> None:
    config = LlamaConfig(num_hidden_layers=1, sliding_window=64 if sliding else None)
    ours, theirs = fixed_cache(config, 64, CPU), DynamicCache()
    assert isinstance(ours, FixedCache)
    generator = torch.Generator().manual_seed(sum(chunks))
    kept = 0
    for chunk in chunks:
        states = torch.randn(2, 2, 3, chunk, 4, generator=generator)
        assert ours.get_mask_sizes(chunk, 0) == theirs.get_mask_sizes(chunk, 0)
        for a, b in zip(ours.update(*states, 0), theirs.update(*states, 0), strict=True):
            assert torch.equal(a, b)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if kept < ours.get_seq_length() - keep:
            kept = ours.get_seq_length() - keep
            ours.append(kept)
            theirs.crop(-keep)
    ours.reset()
    assert ours.get_seq_length() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_fused_norms_change_logits_by_rounding_only(
    architecture: Architecture, dtype: torch.dtype
) -> None:
    model = build(architecture).to(dtype).eval()
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    with torch.no_grad():
        for norm in norms:
            if getattr(norm, "weight", None) is not None:
                norm.weight.add_(torch.randn_like(norm.weight) / 4)
        plain = model(PROMPT).logits.float()
        with fused_norms(model) as count:
            fused = model(PROMPT).logits.float()
        again = model(PROMPT).logits.float()
    if architecture.model_type not in ("mamba2", "qwen3_next"):
        assert count == len([n for n in norms if n.weight is not None])
    assert torch.equal(plain, again)
    noise = 1e-5 if dtype is torch.float32 else 0.05
    assert torch.linalg.vector_norm(fused - plain) <= noise * torch.linalg.vector_norm(plain)


def test_a_norm_that_does_something_else_is_left_alone() -> None:
    class HalvingRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))
            self.eps = 1e-6

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.rms_norm(hidden_states, (8,), self.weight, self.eps) / 2

    with fused_norms(torch.nn.Sequential(HalvingRMSNorm())) as count:
        assert count == 0
