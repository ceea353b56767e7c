"""What an answer says of how it came about."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets import Completion, Delta


def pieces(count: int) -> list[Delta]:
    """A token each tenth of a second, after half a second of reading."""
    return [
        Delta("a", 3, number, 0.5, 0.4 + number / 10, "stop" if number == count else None)
        for number in range(1, count + 1)
    ]


def test_an_answer_whose_pace_is_known_is_drawn() -> None:
    given = pieces(8)
    answer = Completion.of("m", given)
    assert answer.text == "a" * 8
    assert answer.pace[0] == (1, 0.5)
    assert answer.pace[-1] == (8, given[-1].seconds)
    html = answer.to_html()
    assert html.count("<svg") == 1
    assert "10.0 tokens/s on average after the first token." in html
    assert "first token after 0.50 s" in html
    assert "<script" not in html


def test_one_whose_pace_is_not_known_or_too_short_is_told_in_words() -> None:
    alone = replace(Completion.of("m", pieces(8)), pace=())
    assert "<svg" not in alone.to_html()
    assert "10.0 tokens/s" in alone.to_html()
    assert "<svg" not in Completion.of("m", pieces(1)).to_html()


def test_the_pace_is_no_part_of_what_an_answer_is() -> None:
    drawn = Completion.of("m", pieces(8))
    assert drawn == replace(drawn, pace=())
    assert "pace" not in repr(drawn)
