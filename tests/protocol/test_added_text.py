from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.protocol.outbox import added_text
from ollm_widgets.protocol.talk import ChatView, Turn


def chat(*texts: str, state: str = "streaming", **changes: Any) -> ChatView:
    turns = tuple(
        Turn(id=f"turn-{n}", speaker="model" if n % 2 else "you", text=text, state=state)  # type: ignore[arg-type]
        for n, text in enumerate(texts)
    )
    whole: dict[str, Any] = {
        "turns": turns,
        "busy": True,
        "can_send": False,
        "hint": "",
        "status": "",
    }
    return ChatView(**(whole | changes))


def test_a_last_turn_that_grew_is_its_new_text() -> None:
    added = added_text(chat("one", "a"), chat("one", "abc"))
    assert added is not None
    assert (added.turn, added.text) == ("turn-1", "bc")


def test_figures_that_move_with_every_token_wait_for_the_next_whole_view() -> None:
    now = chat("one", "ab", status="20 tokens/s", context_tokens=7)
    assert added_text(chat("one", "a"), now) is not None


@pytest.mark.parametrize(
    "now",
    [
        chat("one", "a"),  # nothing new
        chat("one", "b"),  # other text
        chat("one", ""),  # less text
        chat("two", "ab"),  # another question
        chat("one", "ab", "c"),  # one more turn
        chat("one"),  # one turn fewer
        chat(),
        chat("one", "ab", state="done"),
        chat("one", "ab", busy=False),
        chat("one", "ab", can_send=True),
        chat("one", "ab", hint="Ask something else"),
    ],
)
def test_any_other_difference_takes_a_whole_view(now: ChatView) -> None:
    assert added_text(chat("one", "a"), now) is None


def test_a_note_takes_a_whole_view() -> None:
    now = chat("one", "ab")
    noted = msgspec.structs.replace(now.turns[-1], note="24 tokens")
    assert added_text(chat("one", "a"), chat("one", "ab", turns=(now.turns[0], noted))) is None


def test_the_first_view_and_the_first_turn_are_sent_whole() -> None:
    assert added_text(None, chat("one", "a")) is None
    assert added_text(chat(), chat("one", "a")) is None


TEXTS = st.lists(st.text(alphabet="ab", max_size=3), max_size=3)
CHATS = st.builds(
    lambda texts, state, busy: chat(*texts, state=state, busy=busy),
    TEXTS,
    st.sampled_from(["streaming", "done"]),
    st.booleans(),
)


@given(CHATS, CHATS)
def test_a_delta_always_makes_the_one_view_into_the_other(before: ChatView, now: ChatView) -> None:
    added = added_text(before, now)
    if added is None:
        return
    assert added.text
    last = before.turns[-1]
    grown = msgspec.structs.replace(last, text=last.text + added.text)
    assert added.turn == last.id
    assert msgspec.structs.replace(before, turns=(*before.turns[:-1], grown)) == now


@given(TEXTS.filter(bool), st.text(min_size=1))
def test_text_that_is_appended_is_always_a_delta_of_exactly_it(texts: list[str], more: str) -> None:
    added = added_text(chat(*texts), chat(*texts[:-1], texts[-1] + more))
    assert added is not None
    assert added.text == more
