"""Beginnings of prompts: the same in every process, and shared by prompts that begin alike."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.cluster.books.prefixes import (
    MOST_MESSAGES,
    SHORTEST_CHARACTERS,
    SeenPrefixes,
    beginnings,
)

LONG = "All happy families are alike; " * 20


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_conversation_that_goes_on_begins_with_all_that_was_said() -> None:
    said = [says("user", LONG), says("assistant", "Yes.")]
    more = [*said, says("user", "Why?")]
    assert beginnings(said)[0] in beginnings(more)
    assert beginnings(more)[0] not in beginnings(said)


def test_questions_about_the_same_long_text_share_its_beginning() -> None:
    one, two = beginnings(LONG + "Who is happy?"), beginnings(LONG + "Who is not, and why?")
    assert one[0] != two[0]
    assert set(one) & set(two)


def test_the_longest_beginning_comes_first() -> None:
    text = "x" * 5000
    for length in (700, 1500, 3000):
        shorter = beginnings(text[:length])[1:]
        assert beginnings(text)[-len(shorter) :] == shorter


def test_a_text_is_what_a_message_of_the_user_is() -> None:
    as_parts = [says("user", [{"text": LONG, "type": "text"}])]
    assert beginnings(LONG) == beginnings([says("user", LONG)]) == beginnings(as_parts)


def test_who_says_it_and_what_is_seen_beside_it_make_a_difference() -> None:
    def with_image(data: bytes) -> list[dict[str, Any]]:
        return [says("user", [{"type": "image", "data": data}, {"type": "text", "text": LONG}])]

    different = [
        [says("user", LONG)],
        [says("assistant", LONG)],
        with_image(b"1"),
        with_image(b"2"),
        [says("user", LONG[:300]), says("user", LONG[300:])],
    ]
    assert len({beginnings(prompt)[0] for prompt in different}) == len(different)
    assert beginnings(with_image(b"1")) == beginnings(with_image(b"1"))


def test_short_beginnings_are_left_out() -> None:
    assert beginnings("Hello") == ()
    assert beginnings("") == beginnings([]) == ()
    assert len(beginnings("x" * SHORTEST_CHARACTERS)) == 2


def test_their_number_grows_slowly() -> None:
    chat = [says("user", LONG) for _ in range(1000)]
    assert len(beginnings(chat)) <= MOST_MESSAGES + 12
    assert len(beginnings("x" * 1_000_000)) <= 14


def test_they_are_the_same_in_another_process() -> None:
    code = (
        f"from ollm_widgets.cluster.books.prefixes import beginnings; print(beginnings({LONG!r}))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert there.stdout.strip() == repr(beginnings(LONG))


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING | st.lists(st.fixed_dictionaries({"role": ANYTHING, "content": ANYTHING})))
def test_no_prompt_is_too_odd(prompt: Any) -> None:
    assert beginnings(prompt) == beginnings(prompt)


@given(st.lists(st.text(min_size=1, max_size=600), min_size=1, max_size=6), st.integers(1, 6))
def test_any_conversation_is_known_again_by_what_it_went_on_from(
    texts: list[str], count: int
) -> None:
    chat = [says("user", text) for text in texts]
    assert set(beginnings(chat[:count])[:1]) <= set(beginnings(chat))


def test_a_host_knows_the_longest_beginning_it_has_seen() -> None:
    seen = SeenPrefixes()
    seen.add("model", ("middle", "short"))
    assert seen.longest("model", ("long", "middle", "short")) == 2
    assert seen.longest("model", ("middle", "short")) == 2
    assert seen.longest("model", ("other", "short")) == 1
    assert seen.longest("model", ("other",)) == 0
    assert seen.longest("another", ("middle", "short")) == 0


def test_a_host_forgets_what_was_sent_longest_ago() -> None:
    seen = SeenPrefixes(most=2)
    seen.add("model", ("a",))
    seen.add("model", ("b",))
    seen.add("model", ("a",))
    seen.add("model", ("c",))
    assert len(seen) == 2
    assert seen.longest("model", ("a",)) == 1
    assert seen.longest("model", ("b",)) == 0
