from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.doctor.surroundings import known_variables
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.settings import residency_setting, residency_settings

ALL = {
    "OLLM_MAX_LOADED": "2",
    "OLLM_IDLE_TIMEOUT": "15m",
    "OLLM_BUSY_TIMEOUT": "1.5h",
    "OLLM_BUSY_WAIT": "90 s",
    "OLLM_MEMORY_PRESSURE": "90%",
    "OLLM_DEMOTE": "off",
}


def test_what_is_not_set_or_empty_is_left_open() -> None:
    assert residency_settings({"OLLM_MAX_LOADED": "", "OLLM_IDLE_TIMEOUT": "  "}) == {}


def test_each_variable_gives_its_option() -> None:
    options = ResidencyOptions(**residency_settings(ALL))
    assert options == ResidencyOptions(2, 900.0, 5400.0, 90.0, 0.9, False)


def test_the_processs_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OLLM_IDLE_TIMEOUT", "0")
    assert residency_settings() == {"idle_timeout_s": 0.0}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("900", 900),
        ("0", 0),
        ("never", 0),
        ("off", 0),
        ("2.5s", 2.5),
        ("15 MIN", 900),
        ("1h", 3600),
    ],
)
def test_times_are_seconds_or_carry_their_unit(text: str, seconds: float) -> None:
    assert residency_settings({"OLLM_IDLE_TIMEOUT": text}) == {"idle_timeout_s": seconds}


@pytest.mark.parametrize(("text", "share"), [("0.95", 0.95), (".5", 0.5), ("100%", 1), ("off", 0)])
def test_a_share_is_a_number_or_a_percentage(text: str, share: float) -> None:
    assert residency_settings({"OLLM_MEMORY_PRESSURE": text}) == {"pressure": share}


@pytest.mark.parametrize("text", ["none", "off"])
def test_the_number_of_models_can_be_set_free(text: str) -> None:
    assert residency_settings({"OLLM_MAX_LOADED": text}) == {"max_loaded": None}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OLLM_MAX_LOADED", "0"),
        ("OLLM_MAX_LOADED", "two"),
        ("OLLM_MAX_LOADED", "1.5"),
        ("OLLM_MAX_LOADED", "٣"),
        ("OLLM_IDLE_TIMEOUT", "-1"),
        ("OLLM_IDLE_TIMEOUT", "15 weeks"),
        ("OLLM_BUSY_TIMEOUT", "inf"),
        ("OLLM_BUSY_WAIT", "never"),
        ("OLLM_MEMORY_PRESSURE", "95"),
        ("OLLM_MEMORY_PRESSURE", "101%"),
        ("OLLM_MEMORY_PRESSURE", "nan"),
        ("OLLM_DEMOTE", "maybe"),
    ],
)
def test_what_cannot_be_understood_names_the_variable_the_text_and_what_works(
    variable: str, text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        residency_settings({variable: text})
    assert refused.value.field == variable
    assert repr(text) in str(refused.value)
    assert "write" in str(refused.value)


@given(st.dictionaries(st.sampled_from(sorted(ALL)), st.text(max_size=12)))
def test_any_text_is_a_legal_option_or_a_clear_error(environment: dict[str, str]) -> None:
    try:
        found = residency_settings(environment)
    except ConfigError:
        return
    ResidencyOptions(**found)  # legal by the options' own rules


@given(st.floats(0, 1e6).map(lambda seconds: round(seconds, 3)))
def test_seconds_are_kept_as_typed(seconds: float) -> None:
    typed = f"{seconds:f}"
    assert residency_setting("busy_wait", typed) == {"busy_wait_s": seconds}


@pytest.mark.parametrize(
    "option", ["idle_timeout", "idle_timeout_s", "IDLE-TIMEOUT", "memory_pressure", "pressure"]
)
def test_an_option_is_found_by_its_own_name_and_by_that_of_its_variable(option: str) -> None:
    (name,) = residency_setting(option, "1")
    assert name in ("idle_timeout_s", "pressure")


def test_an_unknown_option_is_told_which_there_are() -> None:
    with pytest.raises(ConfigError, match="There are max_loaded, idle_timeout, busy_timeout"):
        residency_setting("timeout", "1")


def test_the_doctor_knows_every_variable() -> None:
    assert set(ALL) <= known_variables()


def test_the_readme_explains_every_variable() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(known_variables()) if f"| `{name}` |" not in text] == []


def test_reading_settings_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ollm_widgets.settings import residency_settings; residency_settings(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
