from __future__ import annotations

import contextlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, RuntimeConfig
from ollm_widgets.protocol.commands import EditableField
from ollm_widgets.session.edits import edit_text, parse_edit

COUNTS = (
    "kv_cache_window_tokens",
    "kv_cache_sink_tokens",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "context_tokens",
    "dense_projection_chunk_rows",
)
CHOICES = (
    "backend",
    "dtype",
    "kv_cache_strategy",
    "kv_cache_codec",
    "kv_cache_lifecycle",
    "strategy_selector_profile",
    "offload_cpu_policy",
    "use_specialization",
)
SIZES = ("gpu_memory_budget", "cpu_memory_budget", "kv_cache_memory_budget")
TEXTS = ("device", *SIZES)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("context_tokens", "4096", 4096),
        ("context_tokens", " 4,096 ", 4096),
        ("context_tokens", "4_096", 4096),
        ("context_tokens", "4 096", 4096),
        ("context_tokens", "", None),
        ("context_tokens", "   ", None),
        ("offload_gpu_layers", "0", 0),
        ("backend", "transformers-generic", "transformers-generic"),
        ("backend", "", None),
        ("kv_cache_strategy", " paged ", "paged"),
        ("kv_cache_lifecycle", "persistent", "persistent"),
        ("kv_cache_lifecycle", "", "runtime-scoped"),
        ("kv_cache_sink_tokens", "", 0),
        ("gpu_memory_budget", " 6GiB ", "6GiB"),
        ("gpu_memory_budget", "", None),
        ("device", "", "auto"),
        ("device", "cuda:1", "cuda:1"),
        ("dtype", "", "auto"),
        ("strategy_selector_profile", "", "balanced"),
        ("offload_cpu_policy", "middle-band", "middle-band"),
        ("use_specialization", "off", False),
        ("use_specialization", "on", True),
        ("use_specialization", "", True),
    ],
)
def test_text_becomes_the_value_a_person_means(field: str, text: str, value: object) -> None:
    assert parse_edit(field, text) == value


@pytest.mark.parametrize("text", ["-1", "1.5", "1e3", "many", "²", "٣", "0x10", "NaN", "9" * 13])
@pytest.mark.parametrize("field", COUNTS)
def test_what_is_no_count_is_refused_with_its_field(field: str, text: str) -> None:
    with pytest.raises(ConfigError, match="no count") as caught:
        parse_edit(field, text)
    assert caught.value.field == field
    assert caught.value.hint


@pytest.mark.parametrize("field", CHOICES)
def test_an_unknown_choice_is_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(ConfigError, match="'fastest' is unknown") as caught:
        parse_edit(field, "fastest")
    assert caught.value.hint.startswith("Choose ")


@pytest.mark.parametrize("field", ["model_reference", "force_download", "", "__class__"])
def test_only_the_fields_shown_can_be_edited(field: str) -> None:
    with pytest.raises(ConfigError, match="cannot be edited"):
        parse_edit(field, "1")


def test_every_field_a_page_may_name_can_be_edited_and_is_one_of_the_config() -> None:
    config = RuntimeConfig("smollm2-135m")
    for field in get_args(EditableField):
        value = parse_edit(field, "")
        assert getattr(config.copy(**{field: value}), field) == value
        config.copy(**{field: value}).validate()


def test_what_a_person_would_type_gives_the_value_again() -> None:
    config = RuntimeConfig("smollm2-135m")
    for field, text in {
        "context_tokens": "4096",
        "gpu_memory_budget": "6GiB",
        "device": "cpu",
        "use_specialization": "off",
        "kv_cache_codec": "int4",
        "kv_cache_sink_tokens": "4",
    }.items():
        assert edit_text(config, field) == ""
        assert edit_text(config.copy(**{field: parse_edit(field, text)}), field) == text


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("text", ["6 apples", "GiB", "-1GiB", "0", "1e9"])
def test_a_size_that_is_none_is_refused_by_the_config(field: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimeConfig("smollm2-135m").copy(**{field: parse_edit(field, text)}).validate()
    assert caught.value.field == field


@given(st.sampled_from(COUNTS), st.integers(0, 10**12 - 1), st.sampled_from(["{}", "{:,}", "{:_}"]))
def test_any_way_to_write_a_count_gives_that_count(field: str, count: int, way: str) -> None:
    assert parse_edit(field, way.format(count)) == count


@given(st.sampled_from(COUNTS + CHOICES + TEXTS), st.text(max_size=64))
def test_any_text_is_a_value_or_a_config_error(field: str, text: str) -> None:
    value: object = None
    with contextlib.suppress(ConfigError):
        value = parse_edit(field, text)
    of_counts = field in COUNTS or field == "use_specialization"
    assert value is None or isinstance(value, int if of_counts else str)
