from __future__ import annotations

import ast
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.session.attachments import Attachment
from ollm_widgets.session.messages import markdown_of, messages_of, python_of
from ollm_widgets.session.transcript import Said, Transcript

NOTES = Attachment("file-1", "notes.txt", "text", 3, "abc")


def image() -> Attachment:
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").new("RGB", (4, 2)).save(file, "PNG")
    return Attachment("file-2", "photo.png", "image", 70, image=file.getvalue())


def test_instructions_come_first_and_text_files_are_part_of_their_question() -> None:
    said = [Said("user", "What?", (NOTES,)), Said("assistant", "That.")]
    assert messages_of("Be short.", said) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "File `notes.txt`:\n```txt\nabc\n```\n\nWhat?"},
        {"role": "assistant", "content": "That."},
    ]


def test_a_question_with_an_image_has_parts() -> None:
    (message,) = messages_of("", [Said("user", "What?", (NOTES, image()))])
    shown, text = message["content"]
    assert (shown["type"], shown["image"].size) == ("image", (4, 2))
    assert text["type"] == "text"
    assert text["text"].endswith("What?")


def test_python_with_an_image_opens_its_file() -> None:
    code = python_of("", [Said("user", "What?", (image(),))])
    assert code.startswith("from PIL import Image\n")
    assert '{"type": "image", "image": Image.open(\'photo.png\')}' in code
    ast.parse(code)


@given(st.text(max_size=20), st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20))))
def test_the_python_builds_the_same_messages(
    instructions: str, exchanges: list[tuple[str, str]]
) -> None:
    said = [
        Said(role, text)
        for question, answer in exchanges
        for role, text in (("user", question), ("assistant", answer))  # type: ignore[arg-type]
    ]
    scope: dict[str, Any] = {}
    exec(python_of(instructions, said), scope)
    assert scope["messages"] == messages_of(instructions, said)


def test_markdown_tells_the_whole_talk_with_how_answers_ended() -> None:
    transcript = Transcript()
    answer = transcript.ask("What?", (NOTES,))
    answer.pieces, answer.state, answer.note = ["**That.**"], "done", "3 tokens, 20.0 tokens/s"
    answer = transcript.ask("And?")
    answer.pieces, answer.state, answer.note = ["Half"], "stopped", "stopped, 1 token"
    answer = transcript.ask("Then?")
    answer.state, answer.note = "failed", "tiny was unloaded."
    assert markdown_of("Be short.", transcript.turns) == "\n\n".join(
        [
            "# Conversation",
            "## Instructions\n\nBe short.",
            "## You\n\nFile `notes.txt`:\n```txt\nabc\n```\n\nWhat?",
            "## Model\n\n**That.**\n\n*3 tokens, 20.0 tokens/s*",
            "## You\n\nAnd?",
            "## Model\n\nHalf\n\n*stopped, 1 token*",
            "## You\n\nThen?",
            "## Model\n\n*failed: tiny was unloaded.*\n",
        ]
    )
