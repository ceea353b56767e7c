from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.runtime.text import IncrementalDecoder, StopScanner

# A byte-level tokenizer in one line: a token is a byte, so characters span several tokens.
BYTES = st.text().map(lambda text: list(text.encode()))


def decode_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@given(BYTES)
def test_the_pieces_of_an_answer_add_up_to_its_whole_text(tokens: list[int]) -> None:
    decoder = IncrementalDecoder(decode_bytes)
    pieces = [decoder.push([token]) for token in tokens]
    assert "".join(pieces) + decoder.flush() == decode_bytes(tokens)


@given(st.text(alphabet="aß€😀"))
def test_a_piece_never_ends_inside_a_character(text: str) -> None:
    decoder = IncrementalDecoder(decode_bytes)
    for token in text.encode():
        assert "\ufffd" not in decoder.push([token])


def test_an_answer_cut_off_inside_a_character_still_shows_that_something_was_there() -> None:
    decoder = IncrementalDecoder(decode_bytes)
    assert decoder.push(list("é".encode())[:1]) == ""
    assert decoder.flush() == "\ufffd"


STOPS = st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3)


@given(st.lists(st.text(alphabet="ab.", max_size=5)), STOPS)
def test_text_is_shown_up_to_the_first_stop_string_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    whole = "".join(pieces)
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(piece) for piece in pieces) + scanner.flush()
    cuts = [whole.find(stop) for stop in stops if stop in whole]
    if scanner.found:
        assert shown in {whole[:cut] for cut in _all_occurrences(whole, stops)}
        assert not any(stop in shown for stop in stops)
    else:
        assert not cuts
        assert shown == whole


def _all_occurrences(text: str, stops: list[str]) -> set[int]:
    return {at for stop in stops for at in range(len(text)) if text.startswith(stop, at)}


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_is_clear() -> None:
    scanner = StopScanner(["END"])
    assert scanner.push("well E") == "well "
    assert scanner.push("N") == ""
    assert scanner.push("ough") == "ENough"


@pytest.mark.parametrize("stops", [[], [""]])
def test_without_stop_strings_everything_is_shown_at_once(stops: list[str]) -> None:
    assert StopScanner(stops).push("anything") == "anything"
