"""What a store gives a GPU is what came from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from ollm_widgets.kv.persistent.store import PrefixStore
from ollm_widgets.weights.steps.fixed_cache import fixed_cache
from tests.kv.persistent.prefixes import cache_of, continued, fingerprint, ids_of, run, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def open_on_gpu(root: Path, codec: str = "full") -> PrefixStore:
    return PrefixStore.open(
        root, fingerprint(codec=codec, device="cuda"), layout="segments", codec=codec
    )


def on_gpu(cache: DynamicCache) -> DynamicCache:
    moved = DynamicCache()
    for number, layer in enumerate(cache.layers):
        moved.update(layer.keys.cuda(), layer.values.cuda(), number)
    return moved


@pytest.mark.parametrize("codec", ["full", "int8", "int4"])
@pytest.mark.parametrize("tokens", [70, 5_000])
def test_what_was_on_a_gpu_comes_back_to_it(tokens: int, codec: str, tmp_path: Path) -> None:
    ids = ids_of(0, tokens)
    cache = on_gpu(cache_of(ids))
    with open_on_gpu(tmp_path, codec) as store:
        assert store.save(ids, cache).is_complete
        for wanted in (tokens, tokens - 30):
            back = DynamicCache()
            with store.match(ids[:wanted]) as match:
                assert store.restore(match, back) == wanted
            for here, there in zip(back.layers, cache.layers, strict=True):
                assert here.keys.is_cuda
                for mine, its in ((here.keys, there.keys), (here.values, there.values)):
                    if codec == "full":
                        assert torch.equal(mine, its[:, :, :wanted])
                    else:
                        torch.testing.assert_close(mine, its[:, :, :wanted], rtol=0.1, atol=20.0)


def test_room_that_kernels_on_their_way_use_is_not_written_to(tmp_path: Path) -> None:
    ids = ids_of(0, 4_000)
    cache = on_gpu(cache_of(ids))
    with open_on_gpu(tmp_path) as store:
        store.save(ids, cache)
        for _ in range(5):
            busy = torch.randn(4_000, 4_000, device="cuda")
            for _ in range(10):
                busy = busy @ busy / 4_000
            expected = busy.sum()
            del busy
            back = DynamicCache()
            with store.match(ids) as match:
                store.restore(match, back)
            assert torch.isfinite(expected)
            assert torch.equal(back.layers[0].keys, cache.layers[0].keys)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_next", "falcon_h1"])
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_a_model_on_a_gpu_continues_alike(name: str, kind: str, tmp_path: Path) -> None:
    model = tiny(name).cuda()
    ids = ids_of(1, 100)

    def empty() -> DynamicCache:
        if kind == "dynamic":
            return DynamicCache(config=model.config)
        cache = fixed_cache(model.config, 128, torch.device("cuda"))
        assert not isinstance(cache, str)
        return cache  # type: ignore[return-value]

    with torch.device("cuda"):
        cache, again = empty(), empty()
        run(model, cache, ids[:-1], 0)
        with open_on_gpu(tmp_path) as store:
            store.save(ids[:-1], cache)
            with store.match(ids[:-1]) as match:
                assert store.restore(match, again) == 99
        assert continued(model, again, ids, 99) == continued(model, cache, ids, 99)
