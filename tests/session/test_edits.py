from __future__ import annotations

import contextlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, RuntimeConfig
from ollm_widgets.protocol.commands import EditableField
from ollm_widgets.session.edits import parse_edit

COUNTS = (
    "kv_cache_window_tokens",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "context_tokens",
)
CHOICES = ("backend", "kv_cache_strategy", "kv_cache_lifecycle")


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


@given(st.sampled_from(COUNTS), st.integers(0, 10**12 - 1), st.sampled_from(["{}", "{:,}", "{:_}"]))
def test_any_way_to_write_a_count_gives_that_count(field: str, count: int, way: str) -> None:
    assert parse_edit(field, way.format(count)) == count


@given(st.sampled_from(COUNTS + CHOICES), st.text(max_size=64))
def test_any_text_is_a_value_or_a_config_error(field: str, text: str) -> None:
    value: object = None
    with contextlib.suppress(ConfigError):
        value = parse_edit(field, text)
    assert value is None or isinstance(value, int if field in COUNTS else str)
