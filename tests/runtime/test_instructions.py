from __future__ import annotations

import copy
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ollm_widgets import ConfigError
from ollm_widgets.runtime.instructions import takes_instructions, with_instructions
from ollm_widgets.runtime.prompt import encode_prompt

WRITES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + WRITES
)
LEAVES_OUT = (
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
)
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What?"},
    {"role": "assistant", "content": "That."},
]
FOLDED = [{"role": "user", "content": "Be short.\n\nWhat?"}, TALK[2]]


@pytest.fixture
def tokenizer(saved_llama: Path):  # type: ignore[no-untyped-def]
    return copy.deepcopy(AutoTokenizer.from_pretrained(saved_llama))


@pytest.mark.parametrize(
    ("template", "takes"), [(WRITES, True), (REFUSES, False), (LEAVES_OUT, False), (None, True)]
)
def test_a_template_is_asked_whether_it_writes_instructions(
    tokenizer,  # type: ignore[no-untyped-def]
    template: str | None,
    takes: bool,
) -> None:
    tokenizer.chat_template = template
    assert takes_instructions(tokenizer) is takes
    assert with_instructions(tokenizer, TALK) == (TALK if takes else FOLDED)


@pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT])
def test_what_has_no_instructions_is_left_as_it_is(tokenizer, template: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = template
    assert with_instructions(tokenizer, TALK[1:]) == TALK[1:]
    assert with_instructions(tokenizer, TALK[:1]) == TALK[:1]


def test_before_a_question_with_parts_they_are_a_part(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = REFUSES
    image = {"type": "image", "image": "a picture"}
    (question,) = with_instructions(tokenizer, [TALK[0], {"role": "user", "content": [image]}])
    assert question["content"] == [{"type": "text", "text": "Be short.\n\n"}, image]


def test_a_template_that_refuses_messages_says_so_without_a_traceback(tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer.chat_template = "{{ raise_exception('Speakers must take turns') }}"
    with pytest.raises(ConfigError, match="template refuses them: Speakers must take turns"):
        encode_prompt(tokenizer, TALK[1:])
