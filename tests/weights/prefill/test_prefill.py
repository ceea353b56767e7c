from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, DynamicCache, StaticCache

from ollm_widgets.errors import ConfigError
from ollm_widgets.kv.window import window_cache
from ollm_widgets.weights.model.structure import DecoderStructure, decoder_structure
from ollm_widgets.weights.prefill.chunked import ChunkedPrefill
from tests.models.architectures import ARCHITECTURES, GROUPED, HEADED, SLIDING

CASES = {one.model_type: one for one in ARCHITECTURES if "seq2seq" not in one.kind}
EVERY = sorted(CASES)
PADDING = (0, 5, 2)
FIRST, SECOND = 70, 20
SHARING = {
    **HEADED,
    "num_hidden_layers": 6,
    "global_head_dim": 8,
    "sliding_window": 16,
    "layer_types": [SLIDING, "full_attention"] * 3,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
}


@cache
def tiny(model_type: str, dtype: torch.dtype = torch.float32) -> tuple[Any, DecoderStructure]:
    case = CASES[model_type]
    return build(model_type, case.settings, case.model_class, dtype)


def build(
    model_type: str, settings: Any, model_class: str, dtype: torch.dtype = torch.float32
) -> tuple[Any, DecoderStructure]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings)
    model = getattr(transformers, model_class)(config).to(dtype).eval()
    return model, decoder_structure(model)


def prompts(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two turns of ids ``[batch, tokens]`` and the first one's mask, padded on the left."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(3, 60, (batch, FIRST), generator=generator)
    second = torch.randint(3, 60, (batch, SECOND), generator=generator)
    mask = torch.ones_like(first)
    for row in range(batch):
        mask[row, : PADDING[row]] = 0
    return first, second, mask


@torch.inference_mode()
def two_turns(model: Any, batch: int, *, static: bool = False) -> torch.Tensor:
    """Logits of the tokens of two turns over one cache ``[batch, tokens, vocab]``, padding 0."""
    first, second, mask = prompts(batch)
    config = model.config
    past = StaticCache(config, max_cache_len=96) if static else DynamicCache(config=config)
    longer = torch.cat([mask, torch.ones_like(second)], 1)
    one = model(first, attention_mask=mask, past_key_values=past, use_cache=True).logits
    two = model(second, attention_mask=longer, past_key_values=past, use_cache=True).logits
    return torch.cat([one, two], 1).float() * longer[..., None]


def assert_close(found: torch.Tensor, expected: torch.Tensor, noise: float) -> None:
    assert (found - expected).abs().max() <= noise * expected.abs().max()


def attention_lengths(layer: nn.Module) -> list[int]:
    """Lengths of what a layer's first norm sees from now on: the chunks of the layer."""
    lengths: list[int] = []
    norm = next(part for name, part in layer.named_children() if "norm" in name or "ln" in name)
    norm.register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
    return lengths


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model_type", EVERY)
def test_logits_do_not_depend_on_the_chunk(model_type: str, batch: int) -> None:
    model, structure = tiny(model_type)
    whole = two_turns(model, batch)

    for rows in (1, 7, 64, FIRST):
        with ChunkedPrefill(structure, model, rows):
            assert_close(two_turns(model, batch), whole, 1e-5)


@pytest.mark.parametrize("model_type", EVERY)
def test_logits_do_not_depend_on_the_chunk_over_a_static_cache(model_type: str) -> None:
    model, structure = tiny(model_type)

    for batch in (1, 3):
        whole = two_turns(model, batch, static=True)
        for rows in (1, 7, 64):
            with ChunkedPrefill(structure, model, rows):
                assert_close(two_turns(model, batch, static=True), whole, 1e-5)


@pytest.mark.parametrize("model_type", EVERY)
def test_bfloat16_stays_within_its_noise(model_type: str) -> None:
    model, structure = tiny(model_type, torch.bfloat16)
    whole = two_turns(model, 3)

    for rows in (7, 64):
        with ChunkedPrefill(structure, model, rows):
            assert_close(two_turns(model, 3), whole, 0.05)


@pytest.mark.parametrize("model_type", EVERY)
def test_greedy_tokens_are_the_same(model_type: str) -> None:
    model, structure = tiny(model_type)
    first, _, mask = prompts(3)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    whole = model.generate(first, attention_mask=mask, **options)

    with ChunkedPrefill(structure, model, 7):
        chunked = model.generate(first, attention_mask=mask, **options)

    assert chunked.equal(whole)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text", "phi", "qwen3_moe"])
def test_eager_attention_is_cut_too(model_type: str) -> None:
    case = CASES[model_type]
    model, structure = build(model_type, case.settings, case.model_class)
    model.set_attn_implementation("eager")
    whole = two_turns(model, 3)

    with ChunkedPrefill(structure, model, 7) as prefill:
        assert_close(two_turns(model, 3), whole, 1e-5)
        assert prefill.whole_layers == {}


@pytest.mark.parametrize("static", [False, True])
def test_layers_that_share_keys_with_later_ones_are_exact(static: bool) -> None:
    model, structure = build("gemma4_text", SHARING, "Gemma4ForCausalLM")
    whole = two_turns(model, 3, static=static)

    for rows in (1, 7):
        with ChunkedPrefill(structure, model, rows) as prefill:
            assert_close(two_turns(model, 3, static=static), whole, 1e-5)
            # The last sliding layer of its own keys gives them to others: it runs whole.
            assert {2, 4, 5} <= prefill.whole_layers.keys()
            assert {0, 1, 3}.isdisjoint(prefill.whole_layers)


def test_no_layer_sees_more_than_a_chunk() -> None:
    case = CASES["llama"]
    model, structure = build("llama", case.settings, case.model_class)
    lengths = [attention_lengths(layer) for layer in structure.layers]

    with ChunkedPrefill(structure, model, 16):
        two_turns(model, 1)

    assert lengths == [[16, 16, 16, 16, 6, 16, 4]] * 2


def test_a_layer_is_left_before_the_next_is_entered() -> None:
    case = CASES["llama"]
    model, structure = build("llama", case.settings, case.model_class)
    order: list[str] = []
    for index, layer in enumerate(structure.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: order.append(f"into {index}"))
        layer.register_forward_hook(lambda *_, index=index: order.append(f"out of {index}"))

    with ChunkedPrefill(structure, model, 16):
        two_turns(model, 1)

    assert order == ["into 0", "out of 0", "into 1", "out of 1"] * 2


def test_linear_attention_runs_whole_and_its_feed_forward_in_chunks() -> None:
    case = CASES["qwen3_next"]
    model, structure = build("qwen3_next", case.settings, case.model_class)
    seen: list[int] = []
    experts = structure.layers[0].get_submodule("mlp.experts")
    experts.register_forward_pre_hook(lambda _module, args: seen.append(args[0].shape[0]))
    attended: list[int] = []
    linear = structure.layers[0].get_submodule("linear_attn")
    linear.register_forward_pre_hook(
        lambda _module, args, kwargs: attended.append(kwargs["hidden_states"].shape[1]),
        with_kwargs=True,
    )

    with ChunkedPrefill(structure, model, 32) as prefill:
        two_turns(model, 1)

    assert seen == [32, 32, 6, 20]
    assert attended == [70, 20]
    assert list(prefill.whole_layers) == [0, 1, 2]
    assert "LinearAttention" in prefill.whole_layers[0]


def test_the_norm_after_the_last_layer_runs_in_chunks() -> None:
    model, structure = tiny("llama")
    seen: list[int] = []
    forward = type(model.model.norm).forward

    class Watching(type(model.model.norm)):  # type: ignore[misc]
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            seen.append(hidden.shape[1])
            return forward(self, hidden)

    model.model.norm.__class__ = Watching
    with ChunkedPrefill(structure, model, 32):
        two_turns(model, 1)
    model.model.norm.__class__ = Watching.__base__

    assert seen == [32, 32, 6, 20]


def test_output_over_input_gives_the_same() -> None:
    model, structure = tiny("llama")
    whole = two_turns(model, 3)

    with ChunkedPrefill(structure, model, 7, in_place=True):
        assert_close(two_turns(model, 3), whole, 1e-5)


def test_output_over_input_leaves_the_embeddings_alone() -> None:
    model, structure = tiny("llama")
    inputs: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].data_ptr()))
        for layer in structure.layers
    ]
    hooks.append(
        structure.layers[-1].register_forward_hook(
            lambda _module, _args, output: inputs.append(output.data_ptr())
        )
    )
    first, _, mask = prompts(1)

    with torch.inference_mode(), ChunkedPrefill(structure, model, 7, in_place=True):
        model(first, attention_mask=mask, past_key_values=DynamicCache(config=model.config))
    for hook in hooks:
        hook.remove()

    into_first, into_second, out_of_second = inputs
    assert into_first != into_second == out_of_second


@pytest.mark.parametrize("rows", [None, 1000])
def test_short_prompts_and_no_rows_leave_the_model_as_it_is(rows: int | None) -> None:
    model, structure = tiny("llama")
    whole = two_turns(model, 1)

    with ChunkedPrefill(structure, model, rows):
        assert two_turns(model, 1).equal(whole)


def test_removing_restores_every_forward() -> None:
    model, structure = tiny("qwen3_next")
    before = [dict(module.__dict__) for module in model.modules()]
    prefill = ChunkedPrefill(structure, model, 7)

    prefill.install()
    prefill.install()
    replaced = [module for module in model.modules() if "forward" in module.__dict__]
    prefill.remove()
    prefill.remove()

    assert len(replaced) == 1 + 4 + 1  # one attention layer, four feed-forwards, the norm
    assert [dict(module.__dict__) for module in model.modules()] == before


def test_removing_puts_back_a_forward_that_was_replaced_before() -> None:
    model, structure = tiny("llama")
    layer = structure.layers[0]
    own = layer.forward
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].shape[1])
        return own(*args, **kwargs)

    layer.forward = counted
    try:
        with ChunkedPrefill(structure, model, 40):
            # Its signature says nothing about what it takes, so it is not cut.
            two_turns(model, 1)
        assert layer.forward is counted
    finally:
        del layer.__dict__["forward"]

    assert calls == [FIRST, SECOND]


def test_an_error_in_a_chunk_leaves_a_model_that_works() -> None:
    model, structure = tiny("mistral")
    whole = two_turns(model, 3)
    attention = structure.layers[1].get_submodule("self_attn")
    chunks: list[int] = []

    def fail_in_the_third(_module: nn.Module, _args: Any) -> None:
        chunks.append(1)
        if len(chunks) == 3:
            raise RuntimeError("in the third chunk")

    hook = attention.register_forward_pre_hook(fail_in_the_third)
    prefill = ChunkedPrefill(structure, model, 7)
    with prefill:
        with pytest.raises(RuntimeError, match="in the third chunk"):
            two_turns(model, 3)
        hook.remove()
        assert_close(two_turns(model, 3), whole, 1e-5)

    assert two_turns(model, 3).equal(whole)


def test_recorded_states_are_those_of_the_whole() -> None:
    model, structure = tiny("llama")
    first, _, mask = prompts(1)
    options = {"attention_mask": mask, "use_cache": True, "output_hidden_states": True}

    with torch.inference_mode():
        whole = model(first, **options)
        with ChunkedPrefill(structure, model, 7) as prefill:
            chunked = model(first, **options)
            assert "recorded" in prefill.whole_layers[0]

    assert len(chunked.hidden_states) == len(whole.hidden_states) == 3
    for found, expected in zip(chunked.hidden_states, whole.hidden_states, strict=True):
        assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("use_cache", [False, True])
def test_without_a_cache_or_with_gradients_the_layers_run_whole(use_cache: bool) -> None:
    model, structure = tiny("llama")
    first, _, mask = prompts(1)
    lengths: list[int] = []
    hook = structure.layers[0].input_layernorm.register_forward_pre_hook(
        lambda _module, args: lengths.append(args[0].shape[1])
    )

    with torch.set_grad_enabled(use_cache), ChunkedPrefill(structure, model, 7):
        model(first, attention_mask=mask, use_cache=use_cache)
    hook.remove()

    assert lengths == [FIRST]


@pytest.mark.parametrize("sinks", [0, 4])
def test_a_window_that_only_the_cache_has_is_cut_with_the_prompt(sinks: int) -> None:
    model, structure = tiny("llama")
    first, _, mask = prompts(3)

    def logits() -> torch.Tensor:
        past = window_cache(model, 16, sinks)
        found = model(first, attention_mask=mask, past_key_values=past).logits
        return found * mask[..., None]

    with torch.inference_mode():
        whole = logits()
        with ChunkedPrefill(structure, model, 7) as prefill:
            assert_close(logits(), whole, 1e-5)
            assert prefill.whole_layers == {}


def test_a_mask_in_which_tokens_look_ahead_is_not_cut() -> None:
    model, structure = tiny("llama")
    first, _, _ = prompts(1)
    mask = torch.ones(FIRST, FIRST, dtype=torch.bool).tril()
    mask[20:30, 20:30] = True  # an image, say
    mask = mask[None, None]

    def logits() -> torch.Tensor:
        past = DynamicCache(config=model.config)
        found: torch.Tensor = model(first, attention_mask=mask, past_key_values=past).logits
        return found

    with torch.inference_mode():
        whole = logits()
        with ChunkedPrefill(structure, model, 7) as prefill:
            assert_close(logits(), whole, 1e-5)
            assert "look ahead" in prefill.whole_layers[0]
        with ChunkedPrefill(structure, model, 10) as prefill:
            assert_close(logits(), whole, 1e-5)
            assert prefill.whole_layers == {}  # the image lies within one chunk


def test_an_empty_cache_that_makes_its_layers_as_they_come_is_cut() -> None:
    model, structure = build("llama", GROUPED, "LlamaForCausalLM")
    first, _, mask = prompts(3)

    with torch.inference_mode():
        whole = model(first, attention_mask=mask, past_key_values=DynamicCache()).logits
        with ChunkedPrefill(structure, model, 7) as prefill:
            past = DynamicCache()
            found = model(first, attention_mask=mask, past_key_values=past).logits
            assert prefill.whole_layers == {}

    assert past.get_seq_length() == FIRST
    assert_close(found * mask[..., None], whole * mask[..., None], 1e-5)


def test_a_chunk_of_no_tokens_is_refused() -> None:
    model, structure = tiny("llama")

    with pytest.raises(ConfigError, match="0 tokens"):
        ChunkedPrefill(structure, model, 0)
