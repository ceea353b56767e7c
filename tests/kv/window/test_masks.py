from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from ollm_widgets import KVStrategyError
from ollm_widgets.kv.window import rows, window_cache
from tests.kv.window.reference import (
    CASES,
    TOKENS,
    assert_same,
    expected,
    feed,
    masked_layers,
    prompt,
    tiny,
    visible,
)
from tests.models.architectures import build

FULL = ("llama", "qwen3", "qwen3_moe", "qwen2_vl", "phi", "phi3", "gpt2", "deepseek_v3", "falcon")
FULL += ("voxtral",)
WINDOWS = [(window, sinks) for window in (1, 4, 16) for sinks in (0, 2, 4)]
# One pass, token by token, in chunks, and in chunks that are longer than the window.
SCHEDULES = [(TOKENS,), (1,) * TOKENS, (3,) * 12, (20, 1, 1, 9, 1, 64)]


@pytest.mark.parametrize(
    ("model_type", "batch"), [*((each, 3) for each in FULL), ("llama", 1), ("qwen3_moe", 1)]
)
def test_a_window_equals_a_mask_that_hides_what_was_dropped(model_type: str, batch: int) -> None:
    model = tiny(model_type)
    ids, real = prompt(batch)
    for window, sinks in WINDOWS:
        wanted = expected(model, ids, real, visible(real, window, sinks))
        for chunks in SCHEDULES:
            past = window_cache(model, window, sinks)
            assert_same(feed(model, past, ids, real, chunks), wanted, real)
            assert past.get_seq_length() == TOKENS


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_whose_layers_all_slide_sees_no_further_than_it_would(
    attention: str, batch: int
) -> None:
    model = tiny("mistral")
    ids, real = prompt(batch)
    own = visible(real, CASES["mistral"].sliding_window or 0, 0)
    model.set_attn_implementation(attention)
    for window, sinks in ((4, 0), (4, 2), (15, 3), (16, 0), (30, 2)):
        wanted = expected(model, ids, real, _mask(model, own & visible(real, window, sinks)))
        for chunks in SCHEDULES:
            found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
            assert_same(found, wanted, real)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3", "gpt2"])
def test_eager_attention_gives_the_same(model_type: str) -> None:
    model = tiny(model_type)
    ids, real = prompt(3)
    model.set_attn_implementation("eager")
    for window, sinks in WINDOWS:
        wanted = expected(model, ids, real, _mask(model, visible(real, window, sinks)))
        for chunks in SCHEDULES:
            found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
            assert_same(found, wanted, real)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("model_type", ["gemma2", "gpt_oss", "qwen3_next"])
def test_layers_with_full_attention_are_bounded_and_the_others_kept(model_type: str) -> None:
    model = tiny(model_type)
    ids, real = prompt(1)
    whole = window_cache(model, 99)
    kept = {index for index, kind in enumerate(whole.layers) if index not in whole.replaced_layers}
    assert {
        index
        for index, kind in enumerate(CASES[model_type].layer_types or ())
        if kind != "full_attention"
    } == kept
    for window, sinks in ((1, 0), (4, 2), (16, 4)):
        seen = _mask(model, visible(real, window, sinks))
        with torch.inference_mode(), masked_layers(model, whole.replaced_layers, seen):
            wanted = model(ids, use_cache=False).logits
        for chunks in SCHEDULES:
            found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
            assert_same(found, wanted, real)


def test_bfloat16_stays_within_its_noise() -> None:
    model = build(CASES["llama"]).eval()
    ids, real = prompt(3)
    wanted = expected(model, ids, real, visible(real, 4, 2))
    for chunks in SCHEDULES:
        found = feed(model, window_cache(model, 4, 2), ids, real, chunks)
        told = real.bool()
        assert (found - wanted)[told].abs().max() <= 0.05 * wanted[told].abs().max()


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "deepseek_v3"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_window_wider_than_everything_is_bit_for_bit_a_cache_of_all(
    model_type: str, batch: int
) -> None:
    model = tiny(model_type)
    ids, real = prompt(batch)
    for chunks in SCHEDULES:
        whole: Any = DynamicCache(config=model.config)
        wanted = feed(model, whole, ids, real, chunks)
        found = feed(model, window_cache(model, TOKENS, 4), ids, real, chunks)
        assert found.equal(wanted)


@pytest.mark.parametrize("chunks", [(900,), (300, 600), (2, 898)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_long_prompt_never_has_a_mask_of_its_whole_length(
    monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, ...], batch: int
) -> None:
    tokens, window, sinks, model = 900, 40, 3, tiny("llama")
    ids, real = prompt(batch, tokens)
    real[1:2, :216] = 0  # its sinks lie on both sides of where a block's window begins
    queries, keys = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
    rank = real.cumsum(1)[:, None, None]
    near = (keys > queries - window) | (rank <= sinks)
    seen = (keys <= queries) & near & (real[:, None, None] > 0)
    wanted = expected(model, ids, real, seen)
    sizes = []

    def watched(query: Any, key: Any, value: Any, **options: Any) -> Any:
        sizes.append((query.shape[-2], key.shape[-2], tuple(options["attn_mask"].shape[-2:])))
        return dense(query, key, value, **options)

    dense = rows.attend_dense
    monkeypatch.setattr(rows, "attend_dense", watched)
    found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
    assert_same(found, wanted, real)
    assert max(keys for _, keys, _ in sizes) == 256 + window - 1 + sinks
    assert all(mask == (queries, keys) for queries, keys, mask in sizes)


def test_images_that_look_ahead_within_themselves_still_do() -> None:
    from transformers.masking_utils import create_causal_mask

    model = tiny("llama")
    past = window_cache(model, 4, 1)
    blocks = torch.full((1, 12), -1)
    blocks[0, 6:9] = 0
    mask = create_causal_mask(
        model.config,
        torch.zeros(1, 12, 8),
        None,
        past,
        or_mask_function=lambda row, _head, query, key: (
            (blocks[row, query] == blocks[row, key]) & (blocks[row, query] >= 0)
        ),
    )
    assert mask is not None
    wanted = visible(torch.ones(1, 12), 4, 1)
    wanted[0, 0, 6:9, 6:9] = True
    assert mask.equal(wanted)


def test_a_mask_that_was_made_elsewhere_is_refused_once_it_matters() -> None:
    model = tiny("llama")
    ids, _ = prompt(1)
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
    past = window_cache(model, 8)
    model(ids[:, :8], attention_mask=causal[:, :, :8, :8], past_key_values=past)
    with pytest.raises(KVStrategyError, match="leaves out some of 9"):
        model(ids[:, 8:9], attention_mask=causal[:, :, 8:9, :9], past_key_values=past)
    with pytest.raises(KVStrategyError, match="leaves out some of 36"):
        model(ids, attention_mask=causal, past_key_values=window_cache(model, 8))


def test_attention_that_makes_no_masks_is_refused() -> None:
    model = build(CASES["llama"])
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(KVStrategyError, match="uses flex_attention"):
        window_cache(model, 8)
    past = window_cache(tiny("llama"), 8)
    model.config._attn_implementation = "none_at_all"
    ids, _ = prompt(1)
    with pytest.raises((KVStrategyError, KeyError)):
        model(ids, past_key_values=past)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [("gemma3_text", "sliding_attention"), ("t5", "encoder"), ("mamba2", "full attention")],
)
def test_a_model_without_anything_to_bound_is_refused_by_name(model_type: str, why: str) -> None:
    with pytest.raises(KVStrategyError, match=why):
        window_cache(build(CASES[model_type]), 8)


def test_attention_that_counts_its_keys_is_refused() -> None:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True
    )
    with pytest.raises(KVStrategyError, match="ALiBi"):
        window_cache(FalconForCausalLM(config), 8)


@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (4, -1)])
def test_numbers_that_are_no_window_are_refused(window: int, sinks: int) -> None:
    with pytest.raises(KVStrategyError, match=f"{window} tokens and {sinks} sinks"):
        window_cache(tiny("llama"), window, sinks)


def _mask(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """A bool mask as the model's attention wants it."""
    if model.config._attn_implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
