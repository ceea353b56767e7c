from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.render.terminal import TerminalText, harmless

# Mostly what a terminal could obey, and pieces of it.
ORDERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("\x1b[31m", "\x1b]0;owned\x07", "\x1b]8;;http://x\x1b\\", "\x1bP1;2q", "\x9b2J"),
                *("\x9d52;c;x\x9c", "\x1b", "\x08\x08", "\r", "\r\n", "\n", "\t", "\x7f", "\0"),
                *("\u202e", "\u2066", "\u200f", "é", "👩‍💻", "עברית", "\ud83d", "[31m"),
            ]
        ),
        st.text(st.characters(), max_size=3),
    ),
    max_size=12,
).map("".join)
BIDI = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def obeyed(text: str) -> list[str]:
    """Characters that a terminal, or an eye, would take for an order."""
    return [
        one
        for one in text
        if (ord(one) < 0x20 and one not in "\n\t") or 0x7F <= ord(one) < 0xA0 or one in BIDI
    ]


@given(ORDERS)
def test_nothing_is_left_that_a_terminal_obeys_and_all_can_be_written(text: str) -> None:
    shown = harmless(text)
    assert obeyed(shown) == []
    shown.encode("utf-8")


@given(ORDERS, st.lists(st.integers(0, 60), max_size=8))
def test_where_a_stream_is_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    stream, places = TerminalText(), sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert "".join(map(stream.feed, pieces)) == harmless(text)


@given(ORDERS)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert harmless(harmless(text)) == harmless(text)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=60))
def test_words_of_every_language_and_their_signs_stay(text: str) -> None:
    assert harmless(f"{text}\n\t{text}") == f"{text}\n\t{text}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "␛[2Jgone"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x9b31m", "\ufffd31m"),
        ("secret\b\b\b", "secret␈␈␈"),
        ("all is well\rformat c:", "all is well\nformat c:"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("cod\u202efdp.exe", "cod\ufffdfdp.exe"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_an_order_becomes_a_sign_that_can_be_seen(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_line_that_ends_between_two_pieces_ends_once() -> None:
    stream = TerminalText()
    assert [stream.feed(piece) for piece in ("a\r", "", "\nb\r", "c")] == ["a\n", "", "b\n", "c"]
