from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.code import config_to_code
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig

configs = st.builds(
    RuntimeConfig,
    model_reference=st.text(min_size=1, max_size=20),
    models_dir=st.none() | st.sampled_from([Path("here"), "there", 'it\'s "quoted"']),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
    use_cache=st.booleans(),
    strategy_selector_profile=st.sampled_from(["balanced", "latency", "bounded-window"]),
    offload_gpu_layers=st.none() | st.integers(0, 99),
    cpu_memory_budget=st.none() | st.sampled_from([6 * 1024**3, "6GiB", "8GiB"]),
    context_tokens=st.none() | st.integers(1, 10**6),
    force_download=st.booleans(),
)


def test_only_the_model_must_be_named_and_the_defaults_are_valid() -> None:
    RuntimeConfig("smollm2-135m").validate()


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="devise"):
        RuntimeConfig("smollm2-135m", devise="cpu")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="devise"):
        RuntimeConfig("smollm2-135m").copy(devise="cpu")


def test_a_path_object_is_always_a_path() -> None:
    config = RuntimeConfig(Path("smollm2-135m"))  # type: ignore[arg-type]
    assert config.model_reference == "path:smollm2-135m"


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("model_reference", "  ", "org/name"),
        ("device", "tpu", "cuda:0"),
        ("device", "cuda:x", "cuda:0"),
        ("dtype", "bf16", "bfloat16"),
        ("backend", "transformers", "Did you mean transformers-generic?"),
        ("kv_cache_strategy", "page", "Did you mean paged?"),
        ("strategy_selector_profile", "fast", "latency"),
        ("kv_cache_lifecycle", "forever", "persistent"),
        ("kv_cache_adaptation_mode", None, "observe-only"),
        ("offload_cpu_policy", "middle", "middle-band"),
        ("use_cache", "no", "True or False"),
        ("adapter_dir", " ", "path"),
        ("kv_cache_window_tokens", 0, "from 1"),
        ("dense_projection_chunk_rows", 2.5, "whole number"),
        ("offload_gpu_layers", -1, "from 0"),
        ("offload_cpu_layers", True, "whole number"),
        ("context_tokens", "many", "whole number"),
        ("gpu_memory_budget", "6 G", "GiB"),
        ("cpu_memory_budget", 0, "6GiB"),
    ],
)
def test_a_value_that_cannot_work_names_its_field_and_the_fix(
    field: str, value: object, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimeConfig("smollm2-135m").copy(**{field: value}).validate()
    assert caught.value.field == field
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (
            {"kv_cache_strategy": "resident", "kv_cache_lifecycle": "persistent"},
            "kv_cache_lifecycle",
        ),
        ({"kv_cache_strategy": "paged", "kv_cache_window_tokens": 64}, "kv_cache_window_tokens"),
        ({"backend": "optimized-native", "use_specialization": False}, "use_specialization"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimeConfig("smollm2-135m", **changes).validate()
    assert caught.value.field == field


def test_a_window_goes_with_the_strategy_that_has_one() -> None:
    RuntimeConfig("x", kv_cache_window_tokens=64).validate()
    RuntimeConfig(
        "x", kv_cache_window_tokens=64, kv_cache_strategy="sliding-window-ring-buffer"
    ).validate()


@given(configs)
def test_the_code_rebuilds_an_equal_config(config: RuntimeConfig) -> None:
    namespace: dict[str, Any] = {}
    exec(config_to_code(config), namespace)
    assert namespace["config"] == config


def test_the_code_shows_only_what_differs_from_the_defaults() -> None:
    config = RuntimeConfig("smollm2-135m", kv_cache_window_tokens=128, models_dir=Path("m"))
    assert config_to_code(config) == (
        "from pathlib import Path\n\n"
        "from ollm_widgets import RuntimeConfig\n\n"
        "config = RuntimeConfig(\n"
        '    "smollm2-135m",\n'
        '    models_dir=Path("m"),\n'
        "    kv_cache_window_tokens=128,\n"
        ")\n"
    )


@given(configs)
def test_a_copy_is_the_same_runtime_and_another_object(config: RuntimeConfig) -> None:
    copy = config.copy()
    assert copy is not config
    assert copy.identity() == config.identity()
    assert hash(copy.identity()) == hash(config.identity())


@given(configs, configs)
def test_equal_configs_are_the_same_runtime(first: RuntimeConfig, second: RuntimeConfig) -> None:
    if first == second:
        assert first.identity() == second.identity()


def test_another_spelling_is_the_same_runtime() -> None:
    first = RuntimeConfig("x ", cpu_memory_budget="6GiB", models_dir="m", force_download=True)
    second = RuntimeConfig("x", cpu_memory_budget=6 * 1024**3, models_dir=Path("m").absolute())
    assert first.identity() == second.identity()


@pytest.mark.parametrize(
    "change",
    [{"device": "cpu"}, {"dtype": "float16"}, {"context_tokens": 5}, {"use_cache": False}],
)
def test_another_choice_is_another_runtime(change: dict[str, Any]) -> None:
    config = RuntimeConfig("x")
    assert config.copy(**change).identity() != config.identity()


def test_generation_is_greedy_by_default_and_takes_one_stop_text() -> None:
    generation = GenerationConfig(stop="END")  # type: ignore[arg-type]
    generation.validate()
    assert generation.stop == ("END",)
    assert (generation.max_new_tokens, generation.temperature) == (500, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("stop", ("",)),
        ("stop", 5),
        ("seed", -1),
        ("stream", None),
    ],
)
def test_a_generation_value_that_cannot_work_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(**{field: value}).validate()  # type: ignore[arg-type]
    assert caught.value.field == field
