from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.render.units import (
    format_bytes,
    format_count,
    format_memory,
    format_seconds,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_500, "1.5 kB"),
        (98_000_000, "98 MB"),
        (269_060_552, "269 MB"),
        (999_600_000, "1.0 GB"),
        (16_060_556_376, "16.1 GB"),
        (812_000_000_000, "812 GB"),
    ],
)
def test_files_are_counted_in_decimal_units(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 GiB"),
        (1000, "under 1 MiB"),
        (12 << 20, "12 MiB"),
        (538 * 10**6, "513 MiB"),
        (1_047_600 << 10, "1.0 GiB"),
        (12 << 30, "12.0 GiB"),
        (128 << 30, "128 GiB"),
        (2 << 40, "2.0 TiB"),
        (-(2 << 30), "-2.0 GiB"),
    ],
)
def test_memory_is_counted_in_binary_units(size: int, text: str) -> None:
    assert format_memory(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (512, "512"),
        (49_152, "49k"),
        (134_515_008, "135M"),
        (8_030_261_248, "8.0B"),
        (12_187_325_040, "12.2B"),
        (80_000_000_000, "80B"),
        (405_000_000_000, "405B"),
    ],
)
def test_parameters_read_as_people_say_them(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0035, "3.5 ms"),
        (0.012, "12 ms"),
        (0.5, "0.5 s"),
        (9.0, "9.0 s"),
        (59.7, "1 min"),
        (125, "2 min 5 s"),
        (3780, "1 h 3 min"),
        (float("inf"), "unknown"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GiB", 6 * 1024**3),
        (" 1.5 gb ", 1_500_000_000),
        ("512 MiB", 512 * 1024**2),
        ("1024", 1024),
        ("0.5 kB", 500),
        (7, 7),
    ],
)
def test_a_size_is_read_as_it_is_typed(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "6 G", "six", "-1", "1e9", "6GiBs", "nan", True, -5])
def test_what_is_no_size_is_refused_with_what_is_accepted(text: str | int) -> None:
    with pytest.raises(ValueError, match='"6GiB"'):
        parse_bytes(text)


@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GiB", "TiB"]))
def test_a_whole_number_with_a_unit_scales_exactly(count: int, unit: str) -> None:
    assert parse_bytes(f"{count}{unit}") == count * parse_bytes(f"1{unit}")


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_bytes(text) >= 0
    except ValueError as error:
        assert "write" in str(error)  # noqa: PT017  (both outcomes are right)
