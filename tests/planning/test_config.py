from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.code import config_to_code
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig

_words = st.text(min_size=1, max_size=20).filter(str.strip)
_paths = _words.filter(lambda text: not text.startswith("~"))
_folders = st.none() | _paths | _paths.map(Path)
_budgets = st.none() | st.integers(1, 2**50) | st.sampled_from(["6GiB", "1.5 GB", "512 MiB"])

configs = st.builds(
    RuntimeConfig,
    model_reference=_words,
    models_dir=_folders | st.just('it\'s "quoted"'),
    adapter_dir=_folders,
    cache_dir=_folders,
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
    dtype=st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    backend=st.sampled_from([None, "transformers-generic"]),
    multimodal=st.booleans(),
    use_specialization=st.booleans(),
    use_cache=st.booleans(),
    strategy_selector_profile=st.sampled_from(["balanced", "latency", "bounded-window"]),
    kv_cache_window_tokens=st.none() | st.integers(1, 10**6),
    kv_cache_sink_tokens=st.integers(0, 100),
    kv_cache_codec=st.sampled_from([None, "int8", "int4"]),
    kv_cache_memory_budget=_budgets,
    dense_projection_chunk_rows=st.none() | st.integers(1, 10**5),
    offload_gpu_layers=st.none() | st.integers(0, 99),
    offload_cpu_layers=st.none() | st.integers(0, 99),
    offload_cpu_policy=st.sampled_from(["auto", "prefix", "suffix", "middle-band"]),
    gpu_memory_budget=_budgets,
    cpu_memory_budget=_budgets,
    context_tokens=st.none() | st.integers(1, 10**6),
    concurrency_group=st.sampled_from([None, "chat", "a 'quoted' name"]),
    force_download=st.booleans(),
)
generations = st.builds(
    GenerationConfig,
    max_new_tokens=st.integers(1, 10**6),
    temperature=st.floats(0, 10),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(0, 10**6),
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.none() | st.floats(0.01, 10),
    stop=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    seed=st.none() | st.integers(0, 2**63),
    stream=st.booleans(),
)
# What a JSON document may hold in any place.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
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
        ("cache_dir", "~nobody-of-that-name/kv", "whole path"),
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


@given(configs)
def test_a_config_is_equal_after_json_and_back(config: RuntimeConfig) -> None:
    document = json.dumps(config.as_dict(), allow_nan=False)
    back = RuntimeConfig.from_dict(json.loads(document))
    assert back == config
    assert back.identity() == config.identity()


@given(generations)
def test_a_generation_config_is_equal_after_json_and_back(generation: GenerationConfig) -> None:
    document = json.dumps(generation.as_dict(), allow_nan=False)
    assert GenerationConfig.from_dict(json.loads(document)) == generation


def test_a_folder_is_the_same_as_text_and_as_path() -> None:
    assert RuntimeConfig("x", cache_dir="kv") == RuntimeConfig("x", cache_dir=Path("kv"))


@pytest.mark.parametrize(
    ("values", "field", "fix"),
    [
        ({"model_reference": "x", "devise": "cpu"}, "devise", "Did you mean device?"),
        ({"model_reference": "x", "zzzzzz": 1}, "zzzzzz", "The fields are model_reference"),
        ({"model_reference": "x", 5: 1}, "5", "The fields are"),
        ({"device": "cpu"}, "model_reference", "has no default"),
        ({"model_reference": 5}, "model_reference", "org/name"),
        ({"model_reference": "x", "context_tokens": "4096"}, "context_tokens", "whole number"),
        ({"model_reference": "x", "use_cache": 1}, "use_cache", "True or False"),
        ({"model_reference": "x", "cache_dir": 5}, "cache_dir", "Write a path"),
        ({"model_reference": "x", "gpu_memory_budget": 1.5}, "gpu_memory_budget", "6GiB"),
        ({"model_reference": "x", "dtype": ["bfloat16"]}, "dtype", "Use one of"),
        (["model_reference"], "RuntimeConfig", "Give a dict"),
    ],
)
def test_plain_values_that_cannot_work_name_their_field_and_the_fix(
    values: Any, field: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimeConfig.from_dict(values)
    assert caught.value.field == field
    assert fix in str(caught.value)


def test_plain_values_of_a_generation_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="Did you mean temperature"):
        GenerationConfig.from_dict({"temprature": 1})
    with pytest.raises(ConfigError, match="top_k"):
        GenerationConfig.from_dict({"top_k": "5"})
    assert GenerationConfig.from_dict({"stop": ["END"]}).stop == ("END",)


def refused(kind: Any, values: object) -> str:
    """Give the field that a refusal names; empty where the values give a config."""
    try:
        kind.from_dict(values)
    except ConfigError as error:
        return error.field
    return ""


@given(st.dictionaries(st.sampled_from([item.name for item in fields(RuntimeConfig)]), anything))
def test_any_plain_values_give_a_config_or_say_which_field_is_wrong(values: dict[str, Any]) -> None:
    field = refused(RuntimeConfig, values)
    assert field in {"", *(item.name for item in fields(RuntimeConfig))}
    if not field:
        config = RuntimeConfig.from_dict(values)
        assert RuntimeConfig.from_dict(config.as_dict()) == config


@given(st.sampled_from([item.name for item in fields(GenerationConfig)]), anything)
def test_any_value_gives_a_generation_or_its_field_is_refused(name: str, value: object) -> None:
    field = refused(GenerationConfig, {name: value})
    assert field in ("", name)
    if not field:
        generation = GenerationConfig.from_dict({name: value})
        assert GenerationConfig.from_dict(generation.as_dict()) == generation


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


def test_a_home_that_nobody_has_is_a_runtime_of_its_own() -> None:
    first, second = (RuntimeConfig("x", cache_dir=f"~nobody-{end}") for end in "ab")
    assert first.identity() != second.identity()


def test_another_spelling_is_the_same_runtime() -> None:
    first = RuntimeConfig("x ", cpu_memory_budget="6GiB", models_dir="m", force_download=True)
    second = RuntimeConfig("x", cpu_memory_budget=6 * 1024**3, models_dir=Path("m").absolute())
    assert first.identity() == second.identity()


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu"},
        {"dtype": "float16"},
        {"context_tokens": 5},
        {"use_cache": False},
        {"concurrency_group": "chat"},
    ],
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
