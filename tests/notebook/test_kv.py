"""``%ollm kv`` on stores that real caches have filled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from IPython.lib.pretty import pretty
from jupyter_client.manager import KernelManager

from ollm_widgets.errors import ConfigError, DeletionError, KVStrategyError
from ollm_widgets.notebook.arguments import line_parser
from ollm_widgets.notebook.kv import (
    KVListing,
    KVStoreInfo,
    folder_of,
    kv_info,
    kv_names,
    list_kv,
    remove_kv,
)
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.render.units import format_bytes
from ollm_widgets.settings import KV_LIMIT_VARIABLE
from tests.kv.persistent.prefixes import cache_of, ids_of, open_store
from tests.notebook.conftest import Kernel


def keep(root: Path, model: str, *conversations: list[int], codec: str = "full") -> str:
    """Leave conversations in a store; its short name."""
    with open_store(root, model, codec=codec) as store:
        for ids in conversations:
            assert store.save(ids, cache_of(ids)).tokens == len(ids)
    return next(each.name for each in list_kv(root).stores if each.model == model)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "kv"


# ---------------------------------------------------------------------- list


def test_the_list_has_a_row_a_store_with_tokens_size_and_last_use(root: Path) -> None:
    shared = ids_of(1, 128)
    name = keep(root, "llama", shared + ids_of(2, 100), shared + ids_of(3, 30))
    listing = list_kv(root)
    (row,) = listing.table().rows
    (store,) = listing.stores
    assert row.cells[:4] == ("llama", name, "258", "2")
    assert row.cells[5] == datetime.fromtimestamp(store.last_used).strftime("%Y-%m-%d %H:%M")
    assert time.time() - store.last_used < 60
    assert row.remark == "float32 on cpu"
    assert store.bytes > 258 * 3 * 2 * 2 * 8 * 4


def test_it_says_the_total_and_the_cap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KV_LIMIT_VARIABLE, "20GB")
    keep(root, "llama", ids_of(1, 64))
    keep(root, "gemma", ids_of(1, 64))
    listing = list_kv(root)
    assert [store.model for store in listing.stores] == ["gemma", "llama"]
    total = sum(store.bytes for store in listing.stores)
    assert listing.table().subtitle == (
        f"{format_bytes(total)} of at most {format_bytes(20 * 10**9)} in {root}"
    )


def test_where_nothing_is_kept_it_says_how_to_keep_something(root: Path) -> None:
    text = pretty(list_kv(root))
    assert "0 B of at most" in text
    assert "kv_cache_lifecycle='persistent'" in text
    assert "<table" not in list_kv(root).to_html()


def test_what_cannot_be_used_says_why_and_what_is_in_use_says_so(root: Path) -> None:
    name = keep(root, "llama", ids_of(1, 64))
    with open_store(root, "gemma") as store:
        store.save(ids_of(1, 64), cache_of(ids_of(1, 64)))
        remarks = {row.cells[0]: row.remark for row in list_kv(root).table().rows}
        assert remarks["gemma"] == "float32 on cpu, in use by a process that runs"
    folder = next(path for path in root.iterdir() if path.name.startswith(name) and path.is_dir())
    (folder / "index.sqlite").write_bytes(b"no database" * 1000)
    row = next(row for row in list_kv(root).table().rows if row.cells[0] == "llama")
    assert row.tone == "warn"
    assert "cannot be used" in row.remark


def test_a_codec_is_named(root: Path) -> None:
    keep(root, "llama", ids_of(1, 64), codec="int8")
    (row,) = list_kv(root).table().rows
    assert row.remark == "float32 on cpu, cold pages in int8"


# ---------------------------------------------------------------------- info


def test_a_store_shows_its_conversations_and_what_they_do_not_share(root: Path) -> None:
    shared = ids_of(1, 128)
    name = keep(root, "llama", shared + ids_of(2, 64), shared + ids_of(3, 20))
    info = kv_info(root, "llama")
    assert {row.cells[1:3] for row in info.table().rows} == {("192", "64"), ("148", "20")}
    assert pretty(kv_info(root, name)) == pretty(info)
    assert pretty(info).splitlines()[0] == "KV pages of llama"
    assert "float32 on cpu, " in pretty(info)


def test_what_is_not_there_is_refused_with_what_is(root: Path) -> None:
    keep(root, "llama", ids_of(1, 64))
    for act in (kv_info, remove_kv):
        with pytest.raises(KVStrategyError, match=r"no KV store 'gemma'.*llama"):
            act(root, "gemma")


# ---------------------------------------------------------------------- rm


def test_removing_says_the_bytes_and_leaves_the_others(root: Path) -> None:
    name = keep(root, "llama", ids_of(1, 640))
    keep(root, "gemma", ids_of(1, 64))
    said = remove_kv(root, "llama")
    assert said.startswith(f"Deleted llama ({name}), ")
    assert said.endswith(" kB freed.")
    assert [store.model for store in list_kv(root).stores] == ["gemma"]


def test_a_store_in_use_is_refused_and_stays(root: Path) -> None:
    with open_store(root, "llama") as store:
        store.save(ids_of(1, 64), cache_of(ids_of(1, 64)))
        with pytest.raises(DeletionError, match="in use by a process that runs"):
            remove_kv(root, "llama")
        with store.match(ids_of(1, 64)) as match:
            assert match.tokens == 64
    assert "freed" in remove_kv(root, "llama")


def test_all_removes_what_nobody_uses_and_names_the_rest(root: Path) -> None:
    keep(root, "llama", ids_of(1, 64))
    with open_store(root, "gemma") as store:
        store.save(ids_of(1, 64), cache_of(ids_of(1, 64)))
        first, second = remove_kv(root, None, everything=True).splitlines()
    assert first.startswith("Deleted llama (")
    assert "in use by a process that runs" in second
    assert [left.model for left in list_kv(root).stores] == ["gemma"]
    assert remove_kv(root / "none", None, everything=True) == "Nothing was deleted."


@pytest.mark.parametrize(("what", "everything"), [(None, False), ("llama", True)])
def test_removing_needs_one_name_or_all(root: Path, what: str | None, everything: bool) -> None:
    with pytest.raises(ConfigError, match="Name a model or an id"):
        remove_kv(root, what, everything=everything)


# ---------------------------------------------------------------------- as typed


def test_the_folder_is_that_of_the_config_in_use(tmp_path: Path) -> None:
    config = RuntimeConfig("m", cache_dir=tmp_path / "mine")
    assert folder_of(config) == tmp_path / "mine"
    assert folder_of(config, str(tmp_path / "other")) == tmp_path / "other"
    assert folder_of(None).name == "kv"


def test_alone_it_lists() -> None:
    parsed = line_parser().parse_args(["kv"])
    assert (parsed.kv_command, parsed.what, parsed.all, parsed.cache_dir) == (
        *(None, None),
        *(False, None),
    )


def test_models_and_ids_can_be_named(root: Path) -> None:
    llama, gemma = keep(root, "llama", ids_of(1, 64)), keep(root, "gemma", ids_of(1, 64))
    assert kv_names(root) == ["gemma", "llama", gemma, llama]


def test_listings_know_all_representations(root: Path) -> None:
    keep(root, "<llama>", ids_of(1, 64))
    for shown in (list_kv(root), kv_info(root, "<llama>")):
        assert isinstance(shown, KVListing | KVStoreInfo)
        assert "<llama>" not in shown.to_html()
        assert "|---" in shown.to_markdown()
        assert "<llama>" in pretty(shown)


@pytest.fixture(scope="module")
def kernel_with_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that finds pages of two models in its cache folder."""
    cache = tmp_path_factory.mktemp("cache")
    keep(cache / "kv", "llama", ids_of(1, 64))
    keep(cache / "kv", "gemma", ids_of(1, 64))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        cwd=str(Path(__file__).parents[2]), env=os.environ | {"OLLM_CACHE_DIR": str(cache)}
    )
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kernel = Kernel(manager, client)
    assert kernel.run("%load_ext ollm").status == "ok"
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_the_magic_lists_tells_deletes_and_needs_no_model_library(
    kernel_with_pages: Kernel,
) -> None:
    kernel = kernel_with_pages
    (listed,) = kernel.run("%ollm kv").results
    assert "llama" in listed["text/plain"]
    assert "<table>" in listed["text/html"]
    (told,) = kernel.run("%ollm kv info llama").results
    assert "KV pages of llama" in told["text/plain"]
    assert {"list", "info", "rm"} <= set(kernel.complete("%ollm kv "))
    assert {"llama", "gemma"} <= set(kernel.complete("%ollm kv info "))
    assert kernel.complete("%ollm kv rm lla") == ["llama"]
    assert "--all" in kernel.complete("%ollm kv rm --a")
    deleted = kernel.run("%ollm kv rm llama")
    assert "freed." in deleted.printed
    wrong = kernel.run("%ollm kv rm llama")
    assert wrong.error.startswith("UsageError: ")
    assert "gemma" in wrong.error
    assert "Name a model" in kernel.run("%ollm kv rm").error
    assert "Deleted gemma" in kernel.run("%ollm kv rm --all").printed
    assert "Nothing was deleted." in kernel.run("%ollm kv rm --all").printed
    imported = kernel.run("import sys; print('torch' in sys.modules)")
    assert imported.printed == "False\n"
