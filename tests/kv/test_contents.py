"""Caches are read and filled alike, whatever their layers are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import (
    Cache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
    StaticCache,
)

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.contents import (
    append_tokens,
    held_tokens,
    read_tokens,
    readable_layers,
    require_readable,
    restore_special_state,
    sliding_layers,
    special_state,
)
from ollm_widgets.weights.steps.fixed_cache import fixed_cache
from tests.kv.persistent.prefixes import continued, ids_of, run, tiny

IDS = ids_of(3, 90)


def states(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, 2, tokens, 8, generator=chance),
        torch.randn(1, 2, tokens, 6, generator=chance),
    )


def moved(cache: Cache, empty: Cache, tokens: int) -> Cache:
    """Fill an empty cache with what another holds, in two steps."""
    for layer in readable_layers(cache):
        for start, stop in ((0, tokens // 3), (tokens // 3, tokens)):
            append_tokens(empty, layer, *read_tokens(cache, layer, start, stop))
    restore_special_state(empty, special_state(cache))
    return empty


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gemma3_text", "qwen3_next", "deepseek_v3", "falcon_h1", "lfm2"]
)
def test_what_was_moved_to_another_cache_continues_alike(name: str) -> None:
    model = tiny(name)
    cache, other = (DynamicCache(config=model.config) for _ in range(2))
    run(model, cache, IDS[:-1], 0)
    moved(cache, other, len(IDS) - 1)
    before = len(IDS) - 1
    assert continued(model, other, IDS, before) == continued(model, cache, IDS, before)


def test_a_copied_state_is_not_changed_by_what_follows() -> None:
    model = tiny("qwen3_next")
    cache = DynamicCache(config=model.config)
    run(model, cache, IDS[:50], 0)
    state = special_state(cache)
    before = {name: tensor.clone() for name, tensor in state.items()}
    run(model, cache, IDS[50:], 50)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_every_cache_of_this_package_can_be_read_and_filled(tmp_path: Path) -> None:
    model = tiny("llama")
    cache = DynamicCache(config=model.config)
    run(model, cache, IDS[:-1], 0)
    expected = continued(model, moved(cache, DynamicCache(), 89), IDS, 89)
    tiered = build_cache(
        model,
        "paged",
        budget=KVBudget(accelerator_bytes=20_000, host_bytes=5_000),
        folder=tmp_path,
        page_tokens=16,
    )
    fixed = fixed_cache(model.config, 128, torch.device("cpu"))
    assert not isinstance(fixed, str)
    for empty in (tiered, fixed):
        assert readable_layers(empty) == [0, 1]
        moved(cache, empty, 89)
        assert [held_tokens(empty, layer) for layer in (0, 1)] == [89, 89]
        for layer in (0, 1):
            for here, there in zip(
                read_tokens(empty, layer, 5, 70), read_tokens(cache, layer, 5, 70), strict=True
            ):
                assert torch.equal(here, there)
        assert continued(model, empty, IDS, 89) == expected


def test_the_tensors_given_to_an_empty_layer_become_its_own() -> None:
    cache = DynamicCache()
    keys, values = states(5)
    append_tokens(cache, 2, keys, values)
    assert len(cache.layers) == 3
    assert cache.layers[2].keys is keys
    assert cache.get_seq_length(2) == 5
    more = states(3, seed=1)
    append_tokens(cache, 2, *more)
    assert torch.equal(cache.layers[2].values, torch.cat([values, more[1]], dim=2))


def test_a_window_holds_its_last_tokens_only() -> None:
    cache = Cache(layers=[DynamicSlidingWindowLayer(sliding_window=5)])
    keys, values = states(12)
    for start in range(0, 12, 3):
        append_tokens(cache, 0, keys[:, :, start : start + 3], values[:, :, start : start + 3])
    assert readable_layers(cache) == []
    assert sliding_layers(cache) == {0: 4}
    assert held_tokens(cache, 0) == 12
    assert torch.equal(read_tokens(cache, 0, 9, 12)[0], keys[:, :, 9:])
    with pytest.raises(ValueError, match="holds the tokens 8 to 12, not 7 to 9"):
        read_tokens(cache, 0, 7, 9)


def test_a_window_that_remembers_more_is_cut_to_what_is_needed() -> None:
    layer = DynamicSlidingWindowLayer(sliding_window=5)
    layer.activate_past_recording()
    cache = Cache(layers=[layer])
    keys, values = states(12)
    layer.update(keys, values)
    assert torch.equal(special_state(cache)["0.keys"], keys[:, :, 8:])


def test_linear_and_indexed_layers_keep_all_of_their_states() -> None:
    def layers() -> list[object]:
        return [
            LinearAttentionLayer(number_of_states=2),
            LinearAttentionAndFullAttentionLayer(),
            DynamicIndexedLayer(),
        ]

    cache, other = Cache(layers=layers()), Cache(layers=layers())
    keys, values = states(7)
    linear, hybrid, indexed = cache.layers
    linear.update_conv_state(torch.randn(1, 4, 3), 1)
    linear.update_recurrent_state(torch.randn(1, 2, 3), 0)
    hybrid.update(keys, values)
    hybrid.update_conv_state(torch.randn(1, 4, 3))
    indexed.update(keys, values)
    indexed.update_indexer(torch.randn(1, 7, 4))
    moved(cache, other, 7)
    before, after = special_state(cache), special_state(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert other.layers[0].has_previous_state == {0: False, 1: True}
    assert other.layers[2].get_seq_length() == 7


def test_a_state_that_a_layer_has_no_place_for_is_refused() -> None:
    cache = Cache(layers=[DynamicLayer()])
    with pytest.raises(ValueError, match=r"a DynamicLayer, does not keep conv\.0"):
        restore_special_state(cache, {"0.conv.0": torch.zeros(1)})


@pytest.mark.parametrize(
    ("cache", "why"),
    [
        (Cache(layers=[type("Odd", (DynamicLayer,), {})()]), "is a Odd"),
        (StaticCache(config=tiny("llama").config, max_cache_len=8), "is a StaticLayer"),
        (EncoderDecoderCache(DynamicCache(), DynamicCache()), "encoder's input"),
    ],
    ids=["unknown", "static", "encoder"],
)
def test_what_is_not_known_is_not_read(cache: Cache, why: str) -> None:
    with pytest.raises(KVStrategyError, match=why):
        require_readable(cache)
