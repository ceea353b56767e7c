from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, GenerationConfig
from ollm_widgets.session.sampling import KINDS, PRESETS, Sampling


def test_what_is_typed_applies_and_is_shown() -> None:
    sampling = Sampling(GenerationConfig())
    for field, text in (("temperature", " 0.70 "), ("top_k", "40"), ("seed", "7")):
        sampling.set(field, text)
    assert sampling.generation == GenerationConfig(temperature=0.7, top_k=40, seed=7)
    shown = [sampling.text(field) for field in ("temperature", "top_k", "seed")]
    assert shown == ["0.7", "40", "7"]
    sampling.set("top_k", "")
    assert sampling.generation.top_k is None
    assert sampling.text("top_k") == ""
    sampling.set("max_new_tokens", "")
    assert sampling.text("max_new_tokens") == "500"


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("temperature", "-1", "from 0"),
        ("temperature", "warm", "0.7"),
        ("temperature", "nan", "finite"),
        ("top_p", "1.5", "up to 1"),
        ("top_k", "-3", "whole number"),
        ("max_new_tokens", "0", "from 1 up"),
        ("max_new_tokens", "1e3", "whole number"),
        ("seed", "9" * 13, "whole number"),
        ("repetition_penalty", "0", "above 0"),
    ],
)
def test_a_value_that_cannot_work_stays_with_its_error_and_changes_nothing(
    field: str, text: str, said: str
) -> None:
    sampling = Sampling(GenerationConfig())
    sampling.set(field, text)
    assert sampling.generation == GenerationConfig()
    assert sampling.text(field) == text
    assert said in sampling.errors[field]
    assert "None" not in sampling.errors[field]
    sampling.set(field, "")
    assert sampling.errors == {}


def test_stop_strings_are_one_a_line_and_may_hold_line_breaks() -> None:
    sampling = Sampling(GenerationConfig())
    sampling.set("stop", "END\n\n\\n\\nUser:\nC:\\\\n")
    assert sampling.generation.stop == ("END", "\n\nUser:", "C:\\n")
    assert sampling.text("stop") == "END\n\\n\\nUser:\nC:\\\\n"


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), max_size=4))
def test_stop_strings_come_back_as_they_were(stop: list[str]) -> None:
    sampling = Sampling(GenerationConfig(stop=tuple(stop)))
    sampling.set("stop", sampling.text("stop"))
    assert sampling.generation.stop == tuple(stop)


def test_a_preset_sets_all_that_decides_between_tokens_and_nothing_else() -> None:
    sampling = Sampling(GenerationConfig(seed=3, max_new_tokens=9, repetition_penalty=1.3))
    sampling.set("top_p", "7")
    for preset in PRESETS:
        sampling.apply(preset.id)
        assert sampling.preset is preset
        assert sampling.errors == {}
        assert (sampling.generation.seed, sampling.generation.max_new_tokens) == (3, 9)
    sampling.set("temperature", "0.2")
    assert sampling.preset is None
    with pytest.raises(ConfigError, match="Choose exact"):
        sampling.apply("wild")


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be set"):
        Sampling(GenerationConfig()).set("stream", "no")


@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.text(max_size=8)), max_size=6))
def test_whatever_is_typed_what_applies_is_always_valid(edits: list[tuple[str, str]]) -> None:
    sampling = Sampling(GenerationConfig())
    for field, text in edits:
        sampling.set(field, text)
        sampling.generation.validate()
        assert (field in sampling.errors) == (field in sampling.unapplied)
