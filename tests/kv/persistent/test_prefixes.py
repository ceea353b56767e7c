"""What a store finds of a prompt, and that it comes back as it was."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from ollm_widgets.errors import Cancelled
from ollm_widgets.kv.persistent.archive import RECORDS_NAME
from ollm_widgets.planning.kv_presets import KVLayout
from ollm_widgets.weights.steps.fixed_cache import FixedCache, FixedLayer, fixed_cache
from tests.kv.persistent.prefixes import (
    LAYERS,
    cache_of,
    ids_of,
    open_store,
    restored,
    restores_rightly,
    run,
    same_contents,
    tiny,
)


def record_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob(f"{RECORDS_NAME}/*"))


@pytest.mark.parametrize("layout", get_args(KVLayout))
def test_a_saved_prefix_comes_back_bit_for_bit(layout: KVLayout, tmp_path: Path) -> None:
    ids = ids_of(0, 300)
    with open_store(tmp_path, layout=layout) as store:
        result = store.save(ids, cache_of(ids))
        assert (result.tokens, result.new_blocks, result.reason) == (300, 5, "")
    with open_store(tmp_path, layout=layout) as store:
        assert restores_rightly(store, ids) == 300
        assert store.notes == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_every_dtype_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    ids = ids_of(0, 70)
    cache = DynamicCache()
    states = torch.randint(0, 255, (1, 2, 70, 16), dtype=torch.uint8)
    cache.update(states.view(dtype), states.flip(2).view(dtype), 0)
    with open_store(tmp_path) as store:
        store.save(ids, cache)
        _, back = restored(store, ids)
    assert torch.equal(
        back.layers[0].keys.view(torch.uint8), cache.layers[0].keys.view(torch.uint8)
    )
    assert back.layers[0].values.dtype == dtype


def test_a_prompt_starts_from_the_longest_prefix_that_it_shares(tmp_path: Path) -> None:
    first = ids_of(0, 200)
    with open_store(tmp_path) as store:
        store.save(first, cache_of(first))
        for shared in (0, 1, 63, 64, 65, 150, 192, 199, 200):
            other = [*first[:shared], 63, *ids_of(shared + 1, 90)]
            assert restores_rightly(store, other) == shared
            assert restores_rightly(store, first[:shared]) == shared


def test_branches_share_what_they_have_in_common(tmp_path: Path) -> None:
    trunk = ids_of(0, 640)
    with open_store(tmp_path) as store:
        store.save(trunk, cache_of(trunk))
        size = record_bytes(tmp_path)
        branches = [trunk[:600] + ids_of(seed, 80) for seed in range(1, 5)]
        for branch in branches:
            result = store.save(branch, cache_of(branch))
            assert result.new_blocks == 2
        assert record_bytes(tmp_path) < 2 * size
        for branch in (trunk, *branches):
            assert restores_rightly(store, branch) == len(branch)


def test_saving_again_writes_nothing(tmp_path: Path) -> None:
    ids = ids_of(0, 200)
    with open_store(tmp_path) as store:
        store.save(ids, cache_of(ids))
        size = record_bytes(tmp_path)
        for part in (200, 199, 150, 128, 5):
            result = store.save(ids[:part], cache_of(ids[:part]))
            assert (result.tokens, result.written_bytes, result.is_complete) == (part, 0, True)
        assert record_bytes(tmp_path) == size


def test_a_longer_end_takes_the_place_of_a_shorter_one(tmp_path: Path) -> None:
    ids = ids_of(0, 128)
    with open_store(tmp_path, layout="pages") as store:
        for tokens in range(70, 128, 6):
            assert store.save(ids[:tokens], cache_of(ids[:tokens])).is_complete
            assert restores_rightly(store, ids) == tokens
        store.save(ids, cache_of(ids))
        assert store._archive is not None
        assert store._archive._index.rows("SELECT count(*) FROM blocks") == [(2,)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 150)), min_size=1, max_size=8),
    layout=st.sampled_from(["segments", "pages", "chunks", "journal"]),
    reopen=st.booleans(),
)
def test_any_tree_of_conversations_comes_back(
    turns: list[tuple[int, int]],
    layout: KVLayout,
    reopen: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = open_store(root, layout=layout)
    conversations: list[list[int]] = [[]]
    for seed, (parent, tokens) in enumerate(turns):
        ids = conversations[parent % len(conversations)] + ids_of(seed, tokens)
        assert store.save(ids, cache_of(ids)).tokens == len(ids)
        conversations.append(ids)
        if reopen:
            store.close()
            store = open_store(root, layout=layout)
    for ids in conversations:
        assert restores_rightly(store, [*ids, 63]) >= len(ids)
    store.close()


def test_another_model_has_a_store_of_its_own(tmp_path: Path) -> None:
    ids = ids_of(0, 100)
    with open_store(tmp_path, "one") as store:
        store.save(ids, cache_of(ids))
    with open_store(tmp_path, "other") as store:
        assert restores_rightly(store, ids) == 0


def test_caches_of_another_shape_are_kept_apart(tmp_path: Path) -> None:
    ids = ids_of(0, 100)
    with open_store(tmp_path) as store:
        store.save(ids[:80], cache_of(ids[:80], layers=LAYERS + 1))
        assert store.save(ids, cache_of(ids)).new_blocks == 2
        assert restores_rightly(store, ids) == 100


def test_layers_that_a_model_leaves_empty_stay_so(tmp_path: Path) -> None:
    ids = ids_of(0, 100)
    cache = DynamicCache()
    for layer in (0, 2):
        states = cache_of(ids).layers[layer]
        cache.update(states.keys, states.values, layer)
    with open_store(tmp_path) as store:
        assert store.save(ids, cache).is_complete
        tokens, back = restored(store, ids)
    assert tokens == 100
    assert [layer.get_seq_length() for layer in back.layers] == [100, 0, 100]
    assert torch.equal(back.layers[2].values, cache.layers[2].values)


def test_others_cannot_read_what_is_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save([1, 2], cache_of([1, 2]))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert folder.stat().st_mode & 0o077 == 0


def test_a_quantized_store_takes_less_room_and_comes_back_nearly(tmp_path: Path) -> None:
    ids = ids_of(0, 320)
    cache = DynamicCache()
    torch.manual_seed(0)
    cache.update(torch.randn(1, 4, 320, 64), torch.randn(1, 4, 320, 64), 0)
    written = {}
    for codec, tolerance in (("full", 0.0), ("int8", 0.05), ("int4", 0.6)):
        with open_store(tmp_path, codec=codec) as store:
            written[codec] = store.save(ids, cache).written_bytes
            tokens, back = restored(store, ids[:300])
        assert tokens == 300
        for states in ("keys", "values"):
            there, here = getattr(back.layers[0], states), getattr(cache.layers[0], states)
            assert (there - here[:, :, :300]).abs().max() <= tolerance
    assert written["full"] > 3 * written["int8"] > 5 * written["int4"]


def test_windows_can_be_resumed_wherever_their_tokens_are(tmp_path: Path) -> None:
    model = tiny("gemma2")
    ids = ids_of(0, 200)
    cache = DynamicCache(config=model.config)
    with open_store(tmp_path) as store:
        for start in range(0, 200, 10):
            run(model, cache, ids[start : start + 10], start)
            store.save(ids[: start + 10], cache)
        for wanted in (30, 64, 77, 128, 195, 200):
            again = DynamicCache(config=model.config)
            with store.match(ids[:wanted]) as match:
                tokens = store.restore(match, again)
            assert wanted - 10 < tokens <= wanted
            never_stopped = DynamicCache(config=model.config)
            run(model, never_stopped, ids[:tokens], 0)
            for here, there in zip(again.layers, never_stopped.layers, strict=True):
                assert here.get_seq_length() == there.get_seq_length() == tokens
                assert here.keys.shape == there.keys.shape
            after, expected = (run(model, each, [5], tokens) for each in (again, never_stopped))
            torch.testing.assert_close(after, expected)


def test_states_can_be_resumed_at_saved_ends_only(tmp_path: Path) -> None:
    model = tiny("qwen3_next")
    ids = ids_of(0, 200)
    cache = DynamicCache(config=model.config)
    with open_store(tmp_path) as store:
        before = 0
        for end in (20, 64, 140, 200):
            run(model, cache, ids[before:end], before)
            assert store.save(ids[:end], cache).is_complete
            before = end
        for tokens, expected in ((19, 0), (20, 20), (63, 20), (70, 64), (199, 140), (200, 200)):
            with store.match(ids[:tokens]) as match:
                assert match.tokens == expected
        # What is left of a prompt differs from what was saved; an earlier end is found still.
        with store.match(ids[:150] + ids_of(7, 60)) as match:
            again = DynamicCache(config=model.config)
            assert store.restore(match, again) == 140
    never_stopped = DynamicCache(config=model.config)
    run(model, never_stopped, ids[:140], 0)
    after, expected_logits = (run(model, each, [5], 140) for each in (again, never_stopped))
    torch.testing.assert_close(after, expected_logits)


def test_a_cancelled_restore_leaves_the_cache_empty(tmp_path: Path) -> None:
    ids = ids_of(0, 300)
    cancel = threading.Event()
    with open_store(tmp_path) as store:
        store.save(ids, cache_of(ids))
        cache = DynamicCache()
        with store.match(ids) as match:
            with pytest.raises(Cancelled):
                store.restore(match, cache, lambda *_: cancel.set(), cancel)
            assert not any(layer.get_seq_length() for layer in cache.layers)
            assert restores_rightly(store, ids) == 300


def fixed_and_filled(ids: Sequence[int]) -> tuple[FixedCache, DynamicCache]:
    """An empty cache of fixed addresses for a model, and what the model makes of tokens."""
    model = tiny("llama")
    filled = DynamicCache(config=model.config)
    run(model, filled, ids, 0)
    cache = fixed_cache(model.config, len(ids) + 20, torch.device("cpu"))
    assert isinstance(cache, FixedCache)
    return cache, filled


@pytest.mark.parametrize("layout", get_args(KVLayout))
def test_tokens_are_written_to_where_a_fixed_cache_keeps_them(
    layout: KVLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(1, 300)
    cache, filled = fixed_and_filled(ids)
    monkeypatch.setattr(FixedLayer, "append_tokens", forbidden)
    with open_store(tmp_path, layout=layout) as store:
        assert store.save(ids, filled).is_complete
        for wanted in (300, 257, 70):
            with store.match(ids[:wanted]) as match:
                assert store.restore(match, cache) == wanted
            for here, there in zip(cache.fixed_layers, filled.layers, strict=True):
                assert here.filled == wanted
                for own, theirs in ((here.keys, there.keys), (here.values, there.values)):
                    assert torch.equal(own[:, :, :wanted], theirs[:, :, :wanted])
                    assert not own[:, :, wanted:].any()
            cache.reset()


def forbidden(*_: object) -> None:
    raise AssertionError("it takes copies")


def test_a_fixed_cache_is_empty_after_a_cancelled_restore_and_fills_again(tmp_path: Path) -> None:
    ids = ids_of(1, 300)
    cache, filled = fixed_and_filled(ids)
    cancel = threading.Event()
    with open_store(tmp_path) as store:
        store.save(ids, filled)
        with store.match(ids) as match, pytest.raises(Cancelled):
            store.restore(match, cache, lambda *_: cancel.set(), cancel)
        assert cache.tokens == 0
        with store.match(ids) as match:
            assert store.restore(match, cache) == 300
        assert torch.equal(cache.fixed_layers[-1].keys[:, :, :300], filled.layers[-1].keys)


def test_a_cancelled_save_keeps_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollm_widgets.kv.persistent.saving._BATCH_BYTES", 1)
    ids = ids_of(0, 300)
    cancel = threading.Event()

    def after_two(_: str, done: int, total: int) -> None:
        if done >= total * 2 // 5:
            cancel.set()

    with open_store(tmp_path) as store:
        result = store.save(ids, cache_of(ids), cancel, progress=after_two)
        assert not result.is_complete
        assert "cancelled" in result.reason
        assert 0 < result.tokens < 300
        assert restores_rightly(store, ids) == result.tokens
        assert store.save(ids, cache_of(ids)).is_complete


def test_progress_ends_with_everything_done(tmp_path: Path) -> None:
    ids = ids_of(0, 300)
    seen: list[tuple[str, int, int]] = []
    with open_store(tmp_path) as store:
        store.save(ids, cache_of(ids), progress=lambda *step: seen.append(step))
        with store.match(ids) as match:
            store.restore(match, DynamicCache(), lambda *step: seen.append(step))
    for stage in ("Save KV cache", "Restore KV cache"):
        steps = [(done, total) for name, done, total in seen if name == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    two = DynamicCache()
    two.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
    with open_store(tmp_path) as store:
        assert "holds 2" in store.save([1, 2, 3], two).reason
        assert "holds nothing" in store.save([1, 2, 3], DynamicCache()).reason
        assert store.save([], DynamicCache()).tokens == 0
        with pytest.raises(ValueError, match="holds 3 tokens, and 4"):
            store.save([1, 2, 3, 4], cache_of([1, 2, 3]))
        with store.match([1]) as match, pytest.raises(ValueError, match="holds 3 tokens already"):
            store.restore(match, cache_of([1, 2, 3]))


def test_a_closed_store_finds_and_keeps_nothing(tmp_path: Path) -> None:
    ids = ids_of(0, 100)
    store = open_store(tmp_path)
    store.save(ids, cache_of(ids))
    match = store.match(ids)
    store.close()
    store.close()
    assert store.restore(match, DynamicCache()) == 0
    match.release()
    assert store.match(ids).tokens == 0
    assert "cannot be used" in store.save(ids, cache_of(ids)).reason


def test_a_store_that_was_removed_under_way_begins_anew(tmp_path: Path) -> None:
    ids = ids_of(0, 100)
    with open_store(tmp_path) as store:
        store.save(ids, cache_of(ids))
        for folder in tmp_path.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
        assert restores_rightly(store, ids) == 0
        assert store.save(ids, cache_of(ids)).is_complete
        assert restores_rightly(store, ids) == 100


def test_threads_may_read_while_another_saves(tmp_path: Path) -> None:
    base = ids_of(0, 200)
    failures: list[BaseException] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(15):
                ids = base[: chance.randrange(1, 200)] + ids_of(chance.randrange(5), 100)
                restores_rightly(store, ids)
        except BaseException as error:
            failures.append(error)

    with open_store(tmp_path, limit_bytes=300_000) as store:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for seed in range(15):
            ids = base + ids_of(seed % 5, 100)
            store.save(ids, cache_of(ids))
        for thread in threads:
            thread.join()
    assert not failures


def test_contents_are_compared(tmp_path: Path) -> None:
    assert not same_contents(cache_of([1, 2]), cache_of([2, 1]))
