"""What people see of the stores on their machine, and how they get rid of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets.errors import DeletionError, KVStrategyError
from ollm_widgets.kv.persistent.index import INDEX_NAME
from ollm_widgets.kv.persistent.inventory import list_stores, remove, store_info
from tests.kv.persistent.prefixes import cache_of, fingerprint, ids_of, open_store, restores_rightly

TRUNK = ids_of(0, 200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two models, one of which has two conversations with a common beginning."""
    with open_store(tmp_path, "llama") as store:
        for ids in (TRUNK[:130], TRUNK, TRUNK[:100] + ids_of(1, 50)):
            store.save(ids, cache_of(ids))
    with open_store(tmp_path, "qwen", codec="int8") as store:
        store.save(TRUNK, cache_of(TRUNK))
    return tmp_path


def test_stores_are_listed_with_what_they_hold(root: Path) -> None:
    qwen, llama = list_stores(root)
    assert (llama.model, llama.codec, llama.dtype, llama.device) == (
        "llama",
        "full",
        "float32",
        "cpu",
    )
    assert (qwen.model, qwen.codec) == ("qwen", "int8")
    assert llama.tokens == 200 + 150 - 64
    assert (llama.conversations, qwen.conversations) == (2, 1)
    assert llama.bytes > qwen.bytes > 0
    assert qwen.last_used >= llama.last_used > 0
    assert not llama.in_use
    assert not llama.problem


def test_a_folder_without_stores_has_none(tmp_path: Path) -> None:
    assert list_stores(tmp_path / "nowhere") == []
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    assert list_stores(tmp_path) == []


def test_a_store_tells_its_conversations(root: Path) -> None:
    store, prefixes = store_info(root, "llama")
    assert store.name == fingerprint("llama").digest[:8]
    assert sorted((prefix.tokens, prefix.own_tokens) for prefix in prefixes) == [
        (150, 150 - 64),
        (200, 200 - 64),
    ]
    assert sum(prefix.bytes for prefix in prefixes) < store.bytes
    for name in (store.name, store.folder.name, store.folder.name[:5]):
        assert store_info(root, name)[0] == store


def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are(root: Path) -> None:
    for act in (store_info, remove):
        with pytest.raises(KVStrategyError, match=r"no KV store 'gpt'.*llama.*"):
            act(root, "gpt")
    with pytest.raises(KVStrategyError, match="There are: none"):
        remove(root / "nowhere", "llama")


def test_a_model_with_several_stores_is_named_more_closely(root: Path) -> None:
    with open_store(root, "llama", codec="int4") as store:
        store.save(TRUNK, cache_of(TRUNK))
    with pytest.raises(KVStrategyError, match="2 KV stores are of 'llama'"):
        store_info(root, "llama")
    assert len(remove(root, "llama")) == 2
    assert [store.model for store in list_stores(root)] == ["qwen"]


def test_a_removed_store_is_gone_and_can_begin_anew(root: Path) -> None:
    (removed,) = remove(root, "qwen")
    assert not removed.folder.exists()
    with open_store(root, "qwen", codec="int8") as store:
        assert store.match(TRUNK).tokens == 0
    with open_store(root, "llama") as store:
        assert restores_rightly(store, TRUNK) == 200


def test_a_store_in_use_is_not_removed(root: Path) -> None:
    with open_store(root, "llama") as store, store.match(TRUNK):
        assert [each.in_use for each in list_stores(root)] == [True, False]
        with pytest.raises(DeletionError, match="in use"):
            remove(root, "llama")
    assert remove(root, "llama")


def test_stores_that_cannot_be_used_are_listed_and_removed(root: Path) -> None:
    path = root / fingerprint("llama").digest / INDEX_NAME
    path.write_bytes(b"garbage" * 1000)
    damaged = next(store for store in list_stores(root) if store.model == "llama")
    assert "cannot be read" in damaged.problem
    assert store_info(root, "llama") == (damaged, [])
    with open_store(root, "llama"):
        pass
    aside = next(store for store in list_stores(root) if store.name.endswith(".aside"))
    assert aside.problem == "it was set aside"
    assert aside.bytes > 0
    remove(root, aside.name)
    assert len(list_stores(root)) == 2


def test_looking_changes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    list_stores(root)
    store_info(root, "llama")
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert before == {path: after[path] for path in before}
