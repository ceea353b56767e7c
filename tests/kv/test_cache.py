"""Which cache a strategy gives, and what any cache says of itself."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.measuring import cache_bytes, cache_stats
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from ollm_widgets.planning.kv_presets import KV_PRESETS
from tests.kv.test_exactness import generate, model_of, tokens

TIERED = [preset.strategy_id for preset in KV_PRESETS if preset.uses_disk]


def test_resident_is_transformers_own_cache() -> None:
    assert type(build_cache(model_of("llama"), "resident")) is DynamicCache


@pytest.mark.parametrize("strategy", TIERED)
def test_only_full_attention_layers_are_replaced(strategy: Any, tmp_path: Path) -> None:
    for name, replaced in (("llama", (0, 1)), ("gemma2", (1,)), ("qwen3_next", (3,))):
        cache = build_cache(model_of(name), strategy, folder=tmp_path)
        stock = DynamicCache(config=model_of(name).config)
        assert isinstance(cache, TieredCache)
        assert (cache.strategy, cache.replaced_layers) == (strategy, replaced)
        for index, (own, theirs) in enumerate(zip(cache.layers, stock.layers, strict=True)):
            assert (type(own) is type(theirs)) == (index not in replaced)
        assert cache.is_sliding == stock.is_sliding
        assert cache.is_compileable is False
        cache.close()


@pytest.mark.parametrize("strategy", ["no-such-strategy", "sliding-window-ring-buffer"])
def test_what_cannot_be_built_is_refused(strategy: Any) -> None:
    with pytest.raises(KVStrategyError, match=strategy):
        build_cache(model_of("llama"), strategy)


def test_every_cache_gives_its_figures(tmp_path: Path) -> None:
    model = model_of("llama")
    token_bytes = 2 * 2 * 2 * 8 * 4
    for strategy in ("resident", *TIERED):
        cache = build_cache(model, strategy, folder=tmp_path)  # type: ignore[arg-type]
        assert cache_bytes(cache) == 0
        generate(model, cache, tokens(0, 20), 5)
        stats = cache_stats(cache)
        assert (stats.tokens, stats.hot_tokens, stats.evicted_pages) == (24, 24, 0)
        assert 24 * token_bytes <= stats.accelerator_bytes == cache_bytes(cache)
        assert stats.hit_rate is None
        getattr(cache, "close", lambda: None)()


def test_hot_tokens_are_handed_out_without_a_copy(tmp_path: Path) -> None:
    with build_cache(model_of("llama"), "chunked", folder=tmp_path) as cache:  # type: ignore[attr-defined]
        states = torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8)
        first, _ = cache.update(*states, 0)
        second, _ = cache.update(*(each[:, :, :1] for each in states), 0)
        assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("strategy", TIERED)
def test_a_copy_goes_its_own_way(strategy: Any, tmp_path: Path) -> None:
    model = model_of("gemma2")
    prefix, endings = tokens(1, 22), (tokens(2, 6), tokens(3, 9))
    whole = [torch.cat([prefix, ending], dim=1) for ending in endings]
    cache = build_cache(model, strategy, budget=KVBudget(0, 600), folder=tmp_path, page_tokens=4)
    with torch.no_grad():
        model(prefix, past_key_values=cache)
    copies = [copy.deepcopy(cache) for _ in endings]
    cache.close()  # type: ignore[attr-defined]
    made = [generate(model, own, ids, 6) for own, ids in zip(copies, whole, strict=True)]
    again = [generate(model, DynamicCache(config=model.config), ids, 6) for ids in whole]
    for own, alone, copied in zip(made, again, copies, strict=True):
        assert torch.equal(own, alone)
        copied.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_keys_are_not_set_from_outside(tmp_path: Path) -> None:
    with build_cache(model_of("llama"), "paged", folder=tmp_path) as cache:  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match="append_tokens"):
            cache.layers[0].keys = torch.zeros(1, 2, 3, 8)
        with pytest.raises(ValueError, match="negative"):
            cache.crop(3)


def test_the_module_does_not_load_torch() -> None:
    code = "import sys, ollm_widgets.kv.cache; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
