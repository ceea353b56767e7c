"""Every KV strategy as a person asks for it: through a config, a runtime, a few turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.ids import KVCodecId, KVStrategyId
from ollm_widgets.planning.kv_presets import KV_PRESETS, preset_of
from tests.weights.streamed_models import named, prompts, save_lively, with_tokenizer

SHORT = GenerationConfig(max_new_tokens=5)
LONG = prompts([400], seed=2).input_ids
# Two layers in flight, and two pages of each of the two layers.
BUDGET = 2 * 400 * 128 + 2 * 2 * 64 * 128
LOSSLESS = [preset.strategy_id for preset in KV_PRESETS if preset.lossless and preset.uses_disk]
Load = Callable[..., LoadedRuntime]


@pytest.fixture(scope="module")
def folder(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**named("llama").settings, "max_position_embeddings": 2048}
    architecture = replace(named("llama"), settings=settings)
    target = tmp_path_factory.mktemp("strategies") / "llama"
    return with_tokenizer(save_lively(architecture, target), saved_llama, architecture)


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Iterator[Load]:
    loaded: list[LoadedRuntime] = []

    def load(**settings: Any) -> LoadedRuntime:
        given = {"device": "cpu", "dtype": "float32", "cache_dir": tmp_path / "kv", **settings}
        loaded.append(RuntimeLoader().load(RuntimeConfig(folder, **given)))
        return loaded[-1]

    yield load
    for runtime in loaded:
        runtime.close()


def turns(runtime: LoadedRuntime) -> list[torch.Tensor]:
    """A long prompt, a next turn, and the first one edited."""
    first = runtime.generate(LONG, SHORT)
    second = runtime.generate(torch.cat([first, LONG[:, :9]], dim=1), SHORT)
    edited = LONG.clone()
    edited[:, 300:] = LONG[:, :100]
    return [first, second, runtime.generate(edited, SHORT)]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[torch.Tensor]:
    with RuntimeLoader().load(RuntimeConfig(folder, device="cpu", dtype="float32")) as runtime:
        return turns(runtime)


@pytest.mark.parametrize("backend", ["optimized-native", "transformers-generic"])
@pytest.mark.parametrize("strategy", LOSSLESS)
def test_lossless_strategies_give_the_tokens_of_a_resident_cache(
    load: Load, expected: list[torch.Tensor], strategy: KVStrategyId, backend: str
) -> None:
    runtime = load(kv_cache_strategy=strategy, kv_cache_memory_budget=BUDGET, backend=backend)
    assert runtime.plan.kv.strategy == strategy
    for got, wanted in zip(turns(runtime), expected, strict=True):
        assert torch.equal(got, wanted)
    stats = runtime.kv_stats()
    assert stats.hot_tokens < stats.tokens == 404
    assert stats.disk_bytes > 0
    use = runtime.memory()
    assert (use.disk_kv_bytes, use.accelerator_kv_bytes) == (stats.disk_bytes, 0)
    assert use.host_kv_bytes <= BUDGET


def test_a_closed_runtime_leaves_no_page_behind(load: Load, tmp_path: Path) -> None:
    runtime = load(kv_cache_strategy="paged", kv_cache_memory_budget=BUDGET)
    runtime.generate(LONG, SHORT)
    assert runtime.kv_stats().disk_bytes > 0
    runtime.close()
    assert not [file for _, _, files in os.walk(tmp_path / "kv") for file in files]


def test_quantized_pages_take_less_and_answer_nearly_the_same(
    load: Load, expected: list[torch.Tensor]
) -> None:
    held: dict[str, KVStats] = {}
    for codec in get_args(KVCodecId):
        runtime = load(
            kv_cache_strategy="quantized-cold-tier",
            kv_cache_memory_budget=BUDGET,
            kv_cache_codec=codec,
        )
        output = runtime.generate(LONG, SHORT)
        assert torch.equal(output[:, :401], expected[0][:, :401])
        held[codec] = runtime.kv_stats()
    exact = load(kv_cache_strategy="paged", kv_cache_memory_budget=BUDGET)
    exact.generate(LONG, SHORT)
    cold = [
        each.host_bytes + each.disk_bytes for each in (held["int4"], held["int8"], exact.kv_stats())
    ]
    assert cold == sorted(cold)
    assert cold[0] < cold[2] / 2


def test_the_budget_alone_chooses_a_strategy_with_pages(load: Load) -> None:
    runtime = load(kv_cache_memory_budget=BUDGET)
    assert preset_of(runtime.plan.kv.strategy).uses_disk
    assert "budget" in runtime.plan.kv.why or "more than" in runtime.plan.kv.why


@pytest.mark.parametrize("mode", ["disabled", "observe-only", "automatic"])
def test_what_requests_show_is_recommended_or_applied_between_them_as_asked(
    load: Load, expected: list[torch.Tensor], mode: str
) -> None:
    runtime = load(
        # All of it stays in memory, for which pages are no use.
        kv_cache_strategy="paged",
        kv_cache_adaptation_mode=mode,
    )
    planned = runtime.plan.kv
    for shift in range(8):
        runtime.generate(LONG.roll(shift, dims=1), SHORT)
    advised = runtime.kv_recommendation()
    assert torch.equal(runtime.generate(LONG, SHORT), expected[0])
    if mode == "automatic":
        assert runtime.plan.kv != planned
        assert preset_of(runtime.plan.kv.strategy).lossless
        assert runtime.plan.kv.why.startswith("Changed between two requests.")
    else:
        assert runtime.plan.kv == planned
        assert (advised is not None) == (mode == "observe-only")


def test_strategies_can_be_held_side_by_side(load: Load) -> None:
    runtime = load()
    text = " ".join(f"w{3 + number % 50}" for number in range(300))
    seen: list[object] = []
    comparison = runtime.compare_kv(
        text, ["resident", "paged", "quantized-cold-tier"], new_tokens=4, progress=seen.append
    )
    rows = {row.strategy: row for row in comparison.rows}
    assert list(rows) == ["resident", "paged", "quantized-cold-tier"]
    assert not any(row.error for row in rows.values())
    assert rows["paged"].memory.disk_bytes > rows["resident"].memory.disk_bytes == 0
    assert seen
    assert "paged" in comparison.to_markdown()
