from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine

MIB = 1024**2


def test_a_budget_that_holds_the_context_changes_nothing(plan: Any) -> None:
    made = plan(kv_cache_memory_budget="20GiB")
    assert made.kv.strategy == "resident"
    assert made.memory.kv_bytes == made.kv.total_bytes > 0


def test_what_is_beyond_the_budget_goes_to_disk_on_a_cpu(plan: Any) -> None:
    made = plan(kv_cache_memory_budget="64MiB", dtype="float32")
    assert made.is_executable()
    assert made.kv.strategy == "paged"
    assert "more than 64MiB" in made.kv.why
    ram, disk = made.memory.tier("ram"), made.memory.tier("disk")
    assert ram.kv_bytes == 64 * MIB == made.kv.device_budget_bytes
    assert ram.kv_bytes + disk.kv_bytes == made.kv.total_bytes
    assert made.kv.host_budget_bytes is None


def test_beside_a_gpu_host_memory_comes_before_the_disk(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(
        large_model, server, device="cuda", context_tokens=32_768, kv_cache_memory_budget="1GiB"
    )
    gpu, ram = made.memory.tier("gpu"), made.memory.tier("ram")
    assert gpu.kv_bytes == 1024 * MIB
    assert gpu.kv_bytes + ram.kv_bytes == made.kv.total_bytes
    assert made.memory.tier("disk") is None
    assert made.kv.host_budget_bytes >= ram.kv_bytes


def test_strategies_without_a_host_tier_leave_host_memory_alone(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(
        large_model,
        server,
        device="cuda",
        context_tokens=32_768,
        kv_cache_memory_budget="1GiB",
        kv_cache_strategy="streamed-segmented",
    )
    assert made.memory.tier("ram").kv_bytes == 0
    assert made.memory.tier("disk").kv_bytes == made.kv.total_bytes - 1024 * MIB


def test_quantized_pages_take_a_share_of_their_bytes(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    sizes = {}
    for codec in ("int8", "int4"):
        made = plan(
            large_model,
            server,
            device="cuda",
            context_tokens=32_768,
            kv_cache_memory_budget="1GiB",
            kv_cache_strategy="quantized-cold-tier",
            kv_cache_codec=codec,
        )
        assert made.kv.codec == codec
        sizes[codec] = made.memory.tier("ram").kv_bytes / (made.kv.total_bytes - 1024 * MIB)
    assert 0.25 < sizes["int4"] < 0.35
    assert 0.5 < sizes["int8"] < 0.6


def test_written_behind_everything_cold_is_on_disk_too(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(
        large_model,
        server,
        device="cuda",
        context_tokens=32_768,
        kv_cache_memory_budget="1GiB",
        kv_cache_strategy="tiered-write-back",
    )
    assert made.memory.tier("disk").kv_bytes == made.memory.tier("ram").kv_bytes > 0


def test_a_budget_too_small_for_two_layers_is_planned_for_them_all_the_same(plan: Any) -> None:
    made = plan(kv_cache_memory_budget=1, kv_cache_strategy="paged")
    assert made.memory.tier("ram").kv_bytes > made.kv.total_bytes // 30 * 2


def test_a_long_context_that_does_not_fit_goes_to_disk(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=12), context_tokens=131_072)
    assert made.is_executable()
    assert made.memory.tier("disk").kv_bytes > 0
    assert made.memory.fits


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kv_cache_memory_budget": "much"}, "kv_cache_memory_budget"),
        ({"kv_cache_sink_tokens": -1}, "from 0"),
        ({"kv_cache_sink_tokens": 4, "kv_cache_strategy": "paged"}, "full history"),
        ({"kv_cache_codec": "int2"}, "int8"),
        ({"kv_cache_codec": "int8", "kv_cache_strategy": "paged"}, "full precision"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RuntimeConfig("x", **config).validate()
