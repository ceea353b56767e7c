from __future__ import annotations

from typing import Any

import pytest

from ollm_widgets.errors import ConfigError
from ollm_widgets.notebook.talk import Talk
from ollm_widgets.runtime.completion import Completion, figures


def answer(text: str, reused: int = 0) -> Completion:
    return Completion(text, "model", "stop", 65, 8, 0.1, 0.5, 20.0, reused)


def test_a_conversation_grows_in_the_variable_that_a_person_can_change() -> None:
    variables: dict[str, Any] = {}
    talk = Talk(variables, "talk")
    asked = talk.asking("Who?", "Be brief.")
    assert "talk" not in variables  # nothing was answered yet
    talk.keep(asked, answer("Me."))
    variables["talk"][1]["content"] = "Who is it?"
    again = Talk(variables, "talk").asking("Why?", None)
    assert [message["content"] for message in again] == [
        "Be brief.",
        "Who is it?",
        "Me.",
        "Why?",
    ]


def test_a_new_instruction_replaces_the_old_one() -> None:
    variables: dict[str, Any] = {"talk": [{"role": "system", "content": "Be brief."}]}
    asked = Talk(variables, "talk").asking("Who?", "Take your time.")
    assert [message["role"] for message in asked] == ["system", "user"]
    assert asked[0]["content"] == "Take your time."


@pytest.mark.parametrize(
    ("name", "held", "says"),
    [
        ("1x", None, "no variable name"),
        ("talk", 3, "type int"),
        ("talk", [1], "a list of other things"),
        ("talk", [{"role": "robot", "content": "hi"}], "role"),
    ],
)
def test_what_is_no_conversation_is_refused_and_left_as_it_is(
    name: str, held: object, says: str
) -> None:
    variables: dict[str, Any] = {} if held is None else {"talk": held}
    with pytest.raises(ConfigError, match=says):
        Talk(variables, name)
    assert variables == ({} if held is None else {"talk": held})


def test_figures_say_what_was_reused_only_where_something_was() -> None:
    assert figures(answer("Me.")) == "8 tokens, 20.0 tokens/s"
    assert figures(answer("Me.", 44)).endswith("44 of 65 prompt tokens reused")
