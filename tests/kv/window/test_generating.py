from __future__ import annotations

from typing import Any

import pytest
import torch

from ollm_widgets.kv.window import window_cache
from ollm_widgets.weights.model.structure import decoder_structure
from ollm_widgets.weights.prefill.chunked import ChunkedPrefill
from tests.kv.window.reference import assert_same, expected, feed, prompt, tiny, visible

GREEDY: dict[str, Any] = {
    "max_new_tokens": 10,
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def greedy(
    model: Any, ids: torch.Tensor, real: torch.Tensor, window: int, sinks: int
) -> torch.Tensor:
    """Ten more tokens, each by one pass over all without a cache."""
    for _ in range(10):
        logits = expected(model, ids, real, visible(real, window, sinks))
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        real = torch.cat([real, torch.ones_like(ids[:, -1:])], 1)
    return ids


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3", "gpt2", "qwen2_vl"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_plain_generate_with_the_cache_gives_what_the_mask_gives(
    model_type: str, batch: int
) -> None:
    model = tiny(model_type)
    ids, real = prompt(batch, 20)
    for window, sinks in ((1, 2), (4, 0), (16, 4)):
        past = window_cache(model, window, sinks)
        found = model.generate(ids, attention_mask=real, past_key_values=past, **GREEDY)
        wanted = greedy(model, ids, real, window, sinks)
        assert found.equal(wanted)

        # And a second turn, from what the cache has.
        more = torch.cat([found, prompt(batch, 9, seed=3)[0]], 1)
        longer = torch.cat([real, torch.ones(batch, 19, dtype=real.dtype)], 1)
        again = model.generate(more, attention_mask=longer, past_key_values=past, **GREEDY)
        assert again.equal(greedy(model, more, longer, window, sinks))


def test_prompts_in_chunks_beams_and_guessed_tokens_give_what_they_would() -> None:
    model = tiny("llama")
    ids, real = prompt(1, 20)
    ids[:, 10:] = ids[:, :10]
    for window, sinks in ((4, 2), (16, 4)):
        wanted = greedy(model, ids, real, window, sinks)
        for options in ({"prefill_chunk_size": 6}, {"prompt_lookup_num_tokens": 3}):
            past = window_cache(model, window, sinks)
            found = model.generate(
                ids, attention_mask=real, past_key_values=past, **GREEDY, **options
            )
            assert found.equal(wanted)
    ids, real = prompt(2, 20)
    wide = model.generate(ids, attention_mask=real, num_beams=3, **GREEDY)
    past = window_cache(model, 99, 4)
    found = model.generate(ids, attention_mask=real, past_key_values=past, num_beams=3, **GREEDY)
    assert found.equal(wide)


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_a_prompt_that_passes_each_layer_in_chunks_sees_the_same(
    model_type: str, rows: int
) -> None:
    model = tiny(model_type)
    structure = decoder_structure(model)
    ids, real = prompt(3)
    for window, sinks in ((1, 0), (4, 0), (4, 3), (16, 2)):
        wanted = expected(model, ids, real, visible(real, window, sinks))
        with ChunkedPrefill(structure, model, rows):
            for chunks in ([64], [19, 1, 64]):
                found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
                assert_same(found, wanted, real)
