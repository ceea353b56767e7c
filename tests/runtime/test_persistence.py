"""Prompts that a runtime has seen before, in this life or in an earlier one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.persistent.inventory import list_stores
from ollm_widgets.planning.ids import BackendId
from tests.weights.streamed_models import named, prompts, save_lively, with_tokenizer

SHORT = GenerationConfig(max_new_tokens=5)
LONG = prompts([300], seed=2).input_ids
Load = Callable[..., LoadedRuntime]


@pytest.fixture(scope="module")
def models(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("persistent")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            settings = {**named(kind).settings, "max_position_embeddings": 2048}
            architecture = replace(named(kind), settings=settings)
            with_tokenizer(save_lively(architecture, root / kind), saved_llama, architecture)
        return root / kind

    return folder


@pytest.fixture
def load(models: Callable[[str], Path], tmp_path: Path) -> Iterator[Load]:
    loaded: list[LoadedRuntime] = []

    def load(kind: str = "llama", **settings: Any) -> LoadedRuntime:
        given = {
            "device": "cpu",
            "dtype": "float32",
            "cache_dir": tmp_path / "kv",
            "kv_cache_lifecycle": "persistent",
            **settings,
        }
        given.setdefault("model_reference", models(kind))
        loaded.append(RuntimeLoader().load(RuntimeConfig(**given)))
        return loaded[-1]

    yield load
    for runtime in loaded:
        runtime.close()


def reused(runtime: LoadedRuntime) -> int:
    """Tokens of the last prompt that were there already."""
    reuse = runtime._caches.reuse_of(None)
    assert reuse is not None
    return reuse.last.restored_tokens


@pytest.mark.parametrize("backend", ["optimized-native", "transformers-generic"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen3_next", "deepseek_v3"])
def test_a_prompt_seen_in_an_earlier_life_begins_where_it_ended(
    load: Load, kind: str, backend: BackendId
) -> None:
    first = load(kind, backend=backend)
    expected = first.generate(LONG, SHORT)
    first.close()
    again = load(kind, backend=backend)
    # A model that keeps a state can only go on from where it stopped.
    prompt = LONG if kind in ("llama", "deepseek_v3") else expected
    assert torch.equal(again.generate(prompt, SHORT)[:, :305], expected)
    assert reused(again) >= 299


def test_a_beginning_shared_with_an_earlier_prompt_is_not_computed_again(load: Load) -> None:
    runtime = load()
    runtime.generate(LONG, SHORT)
    runtime.close()
    other = LONG.clone()
    other[:, 200:] = LONG[:, :100]
    with_nothing = load(kv_cache_lifecycle="runtime-scoped", cache_dir=None)
    expected = with_nothing.generate(other, SHORT)
    again = load()
    assert torch.equal(again.generate(other, SHORT), expected)
    assert 128 <= reused(again) <= 200


def test_two_conversations_in_turn_each_go_on_where_they_were(load: Load) -> None:
    runtime = load()
    turns = [prompts([150], seed=seed).input_ids for seed in (5, 6)]
    for _ in range(3):
        for talk in range(2):
            before = turns[talk].shape[1]
            answer = runtime.generate(turns[talk], SHORT)
            if before > 150:
                reuse = runtime._caches.reuse_of(None)
                assert reuse is not None
                assert reuse.last.kept_tokens >= before - 8
            turns[talk] = torch.cat([answer, prompts([7], seed=before).input_ids], dim=1)


def test_a_persistent_cache_that_was_handed_out_knows_prompts_of_earlier_ones(
    load: Load,
) -> None:
    first = load(kv_cache_lifecycle="runtime-scoped")
    cache = first.get_or_create_kv_cache(strategy="paged", lifecycle="persistent")
    expected = first.generate(LONG, SHORT, kv_cache=cache)
    first.close()
    second = load(kv_cache_lifecycle="runtime-scoped")
    cache = second.get_or_create_kv_cache(strategy="paged", lifecycle="persistent")
    assert torch.equal(second.generate(LONG, SHORT, kv_cache=cache), expected)
    reuse = second._caches.reuse_of(cache)
    assert reuse is not None
    assert reuse.last.restored_tokens == 299


def test_a_store_that_cannot_be_read_is_set_aside_and_the_plan_says_so(
    load: Load, tmp_path: Path
) -> None:
    first = load()
    expected = first.generate(LONG, SHORT)
    first.close()
    (index,) = (tmp_path / "kv").rglob("index.sqlite")
    index.write_bytes(b"nothing that SQLite knows" * 400)
    again = load()
    assert torch.equal(again.generate(LONG, SHORT), expected)
    assert reused(again) == 0
    assert any("aside" in detail for detail in again.plan.details)


def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_loaded(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(KVStrategyError, match="Choose another folder"):
        load(cache_dir=tmp_path / "file" / "kv")


def test_pages_of_a_running_cache_are_no_store(load: Load, tmp_path: Path) -> None:
    runtime = load(kv_cache_memory_budget=2 * 300 * 128 * 2)
    runtime.generate(LONG, SHORT)
    assert runtime.kv_stats().disk_bytes > 0
    (store,) = list_stores(tmp_path / "kv")
    assert store.model == runtime.name


def test_other_weights_start_from_nothing(load: Load, models: Callable[[str], Path]) -> None:
    load().generate(LONG, SHORT)
    folder = models("llama")
    changed = folder.with_name("changed")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    model.save_pretrained(changed)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, changed)
    runtime = load(model_reference=changed)
    runtime.generate(LONG, SHORT)
    assert reused(runtime) == 0
