from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.selector import BackendSelector

counts = st.none() | st.integers(0, 2**70)


@pytest.mark.parametrize(
    ("config", "backend"),
    [
        ({}, "optimized-native"),
        ({"use_specialization": False}, "transformers-generic"),
        ({"backend": "transformers-generic"}, "transformers-generic"),
    ],
)
def test_a_small_model_runs_whole_on_the_cpu(
    plan: Any, config: dict[str, Any], backend: str
) -> None:
    made = plan(**config)
    assert made.is_executable()
    assert (made.backend_id, made.device, made.dtype) == (backend, "cpu", "float32")
    assert made.placement.host_layers == 30
    assert made.memory.fits
    assert made.memory.needed_bytes == made.memory.tier("ram").needed_bytes > 4 * 134_515_008
    assert made.kv.strategy == "resident"
    assert made.kv.bytes_per_1k_tokens == 1000 * 2 * 30 * 3 * 64 * 4
    assert made.kv.total_bytes == made.memory.kv_bytes
    assert made.speed.tokens_per_s > 1


def test_the_plan_says_why_the_native_backend_was_not_chosen(
    plan: Any, model: ResolvedModel
) -> None:
    shape = replace(model.shape, layers=31) if model.shape is not None else None
    made = plan(replace(model, shape=shape))
    assert made.backend_id == "transformers-generic"
    assert made.is_executable()
    assert made.specialization_state == "not-planned"
    assert made.specialization_enabled
    assert (
        "optimized-native was not chosen: the tensor headers hold 30 decoder layers, and the "
        "config announces 31." in made.details
    )
    assert not any("optimized-native" in text for text in plan(use_specialization=False).details)


def test_the_plan_keeps_a_copy_of_the_config(
    selector: BackendSelector, model: ResolvedModel, laptop: Machine
) -> None:
    config = RuntimeConfig("x")
    made = selector.select(model, config, laptop)
    config.device = "cuda"
    assert made.config.device == "auto"


def test_an_accelerator_that_holds_the_model_is_taken(
    plan: Any, make_machine: Callable[..., Machine]
) -> None:
    made = plan(machine=make_machine(gpu_gib=(4, 8)))
    assert (made.device, made.dtype) == ("cuda:1", "bfloat16")
    assert made.placement.accelerator_layers == 30
    assert made.memory.tier("ram").needed_bytes == 0


def test_a_model_too_large_for_the_accelerator_runs_on_the_cpu_and_says_so(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(ram_gib=64, gpu_gib=(12,))
    made = plan(large_model, machine, backend="transformers-generic")
    assert made.is_executable()
    assert made.device == "cpu"
    assert any("Test GPU is too small: 16.0 GiB" in detail for detail in made.details)
    assert plan(large_model, machine).device == "cuda:0"


def test_an_accelerator_too_small_to_stream_through_is_left_and_the_plan_says_so(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=64, gpu_gib=(3,)))
    assert made.is_executable()
    assert (made.backend_id, made.device) == ("optimized-native", "cpu")
    assert any("Test GPU is too small: 3." in detail for detail in made.details)


def test_a_model_that_fits_in_half_precision_only_runs_so(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=24))
    assert made.is_executable()
    assert made.dtype == "bfloat16"
    asked = plan(
        large_model, make_machine(ram_gib=24), dtype="float32", backend="transformers-generic"
    )
    assert not asked.is_executable()
    assert 'dtype="bfloat16"' in asked.reason


def test_a_model_that_fits_nowhere_gives_the_numbers(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=8), backend="transformers-generic")
    assert not made.is_executable()
    assert re.search(r"3[12]\.\d GiB of RAM", made.reason)
    assert "7.5 GiB may be used" in made.reason
    assert made.speed is None
    assert not made.memory.fits


@pytest.mark.parametrize(
    ("ram_gib", "config"),
    [
        (
            24,
            {
                "dtype": "bfloat16",
                "backend": "transformers-generic",
                "kv_cache_strategy": "resident",
            },
        ),
        (8, {"backend": "optimized-native", "kv_cache_strategy": "resident"}),
    ],
)
def test_too_long_a_context_names_the_one_that_fits(
    plan: Any,
    large_model: ResolvedModel,
    make_machine: Callable[..., Machine],
    ram_gib: int,
    config: dict[str, Any],
) -> None:
    made = plan(large_model, make_machine(ram_gib), context_tokens=131_072, **config)
    assert not made.is_executable()
    words = made.reason.split()
    most = int(words[words.index("most") + 1].replace(",", ""))

    def fits(tokens: int) -> bool:
        asked = plan(large_model, make_machine(ram_gib), context_tokens=tokens, **config)
        return bool(asked.is_executable())

    assert fits(most)
    assert not fits(most + 1)


def test_a_context_beyond_the_models_is_not_executable(plan: Any) -> None:
    made = plan(context_tokens=8_193)
    assert not made.is_executable()
    assert "8,192" in made.reason


@pytest.mark.parametrize(("device", "label"), [("cuda", "CUDA"), ("mps", "Metal")])
def test_a_device_that_is_not_there_is_named(plan: Any, device: str, label: str) -> None:
    made = plan(device=device)
    assert not made.is_executable()
    assert made.device == device
    assert f"{device} was asked for, but this machine has no {label}" in made.reason
    assert made.speed is None


def test_a_third_gpu_of_two_is_refused(plan: Any, make_machine: Callable[..., Machine]) -> None:
    made = plan(machine=make_machine(gpu_gib=(8, 8)), device="cuda:2")
    assert "cuda:0, cuda:1 only" in made.reason


def test_the_native_backend_asked_for_is_refused_and_not_replaced(
    plan: Any, model: ResolvedModel
) -> None:
    made = plan(replace(model, generic_model_kind="seq2seq-lm"), backend="optimized-native")
    assert made.backend_id == "optimized-native"
    assert not made.is_executable()
    assert "this one is seq2seq-lm" in made.reason
    assert made.specialization_state == "not-planned"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"adapter_dir": "adapter"}, "adapter_dir"),
        ({"multimodal": True}, "takes text only"),
        (
            {"kv_cache_strategy": "resident", "kv_cache_memory_budget": "1MiB"},
            "keeps all of 4,096 tokens on the device, which takes more than 1MiB",
        ),
        (
            {
                "kv_cache_strategy": "sliding-window-ring-buffer",
                "kv_cache_lifecycle": "persistent",
            },
            "runtime-scoped",
        ),
        ({"offload_gpu_layers": 3}, "runs on the CPU"),
        (
            {"offload_cpu_layers": 3, "backend": "transformers-generic"},
            "keeps the whole model on one device",
        ),
        ({"offload_cpu_layers": 31}, "31 layers were asked for, the model has 30"),
        ({"offload_gpu_layers": 20, "offload_cpu_layers": 20}, "20 + 20 layers"),
        ({"cpu_memory_budget": "1MiB"}, "cannot hold one layer, which needs 7 MiB"),
        (
            {"cpu_memory_budget": "1MiB", "dtype": "float32"},
            "cannot hold one layer, which needs 14 MiB",
        ),
        ({"cpu_memory_budget": "100MiB", "use_specialization": False}, "a budget of 100MiB"),
        ({"cpu_memory_budget": "64MiB"}, "64 MiB may be used"),
        ({"device": "mps", "backend": "optimized-native"}, "computes on cpu, cuda, not on mps"),
    ],
)
def test_a_choice_that_cannot_be_had_says_why(
    plan: Any, config: dict[str, Any], words: str
) -> None:
    made = plan(**config)
    assert not made.is_executable()
    assert words in made.reason


@pytest.mark.parametrize(
    "config",
    [{"offload_gpu_layers": 0}, {"offload_cpu_layers": 30}],
)
def test_layers_where_they_are_anyway_are_granted(
    plan: Any, make_machine: Callable[..., Machine], config: dict[str, Any]
) -> None:
    assert plan(**config).is_executable()
    with_gpu = plan(machine=make_machine(gpu_gib=(8,)), use_specialization=False, **config)
    assert with_gpu.is_executable()
    assert with_gpu.device == "cpu"


def test_all_layers_on_the_gpu_are_granted_there(
    plan: Any, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(gpu_gib=(8,))
    for backend in ("transformers-generic", "optimized-native"):
        made = plan(machine=machine, offload_gpu_layers=30, backend=backend)
        assert made.device == "cuda:0"
        assert made.is_executable()
    refused = plan(machine=machine, offload_gpu_layers=29, backend="transformers-generic")
    assert "Here all 30 layers" in refused.reason


def test_a_budget_that_holds_the_model_is_obeyed(plan: Any) -> None:
    made = plan(cpu_memory_budget="2GiB")
    assert made.is_executable()
    assert made.memory.tier("ram").available_bytes == 2 * 1024**3


def test_a_window_shrinks_the_kv_cache_in_the_map(plan: Any) -> None:
    made = plan(kv_cache_window_tokens=128)
    assert made.is_executable()
    assert made.kv.window_tokens == 128
    assert made.memory.kv_bytes == made.kv.bytes_per_1k_tokens * 128 // 1000


def test_without_a_cache_there_is_no_kv_and_each_token_costs_a_pass(plan: Any) -> None:
    made = plan(use_cache=False)
    assert made.memory.kv_bytes == made.kv.total_bytes == 0
    assert made.speed.seconds_per_token == made.speed.time_to_first_token_s


def test_a_model_that_is_not_here_is_planned_and_needs_its_files(
    plan: Any, model: ResolvedModel
) -> None:
    made = plan(replace(model, model_path=None, shape=None, weights=None))
    assert not made.is_executable()
    assert made.needs_files
    assert made.reason.startswith("Its files (269 MB) are not on this machine.")
    assert "HF_HUB_OFFLINE is set: download it once with `hf download" in made.reason
    assert made.memory.needed_bytes == 4 * 134_515_008
    assert made.speed is not None


def test_an_obstacle_beside_missing_files_is_the_reason(plan: Any, model: ResolvedModel) -> None:
    made = plan(replace(model, model_path=None), device="cuda")
    assert not made.needs_files
    assert "cuda" in made.reason
    assert any("not on this machine" in detail for detail in made.details)


def test_an_unsupported_model_gives_the_resolvers_message(plan: Any, model: ResolvedModel) -> None:
    profile = replace(model.capabilities, support_level="unsupported")
    made = plan(replace(model, capabilities=profile, resolution_message="Tried everywhere."))
    assert (made.backend_id, made.support_level) == (None, "unsupported")
    assert made.reason == "Tried everywhere."
    assert made.details == ()


def test_another_kind_of_model_is_not_executable(plan: Any, model: ResolvedModel) -> None:
    made = plan(replace(model, generic_model_kind="seq2seq-lm"))
    assert not made.is_executable()
    assert "this one is seq2seq-lm" in made.reason


def test_only_a_value_that_can_never_work_raises(plan: Any) -> None:
    with pytest.raises(ConfigError):
        plan(device="toaster")


@given(gpu=counts, cpu=counts, window=st.none() | st.integers(1, 2**70), context=counts)
def test_no_count_a_person_can_type_makes_planning_fail(
    plan: Any, gpu: int | None, cpu: int | None, window: int | None, context: int | None
) -> None:
    made = plan(
        offload_gpu_layers=gpu,
        offload_cpu_layers=cpu,
        kv_cache_window_tokens=window,
        context_tokens=context or None,
    )
    assert made.reason
    json.dumps(made.as_dict())
    assert made.to_html()
