"""Instructions for the model, whether or not its chat template knows such a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

# Looked for in what a template writes; some templates leave out what they do not know.
_PROBE = "QXZJ-INSTRUCTIONS"


class ChatWriter(Protocol):
    """A tokenizer, or the processor of a model that sees."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, *, tokenize: bool) -> Any:
        """Write messages as the model reads them."""
        ...


def takes_instructions(writer: ChatWriter, *, parts: bool = False) -> bool:
    """Whether the chat template writes messages of the role ``system``.

    Some refuse them (Gemma 2), and some leave them out. True where there is no template to ask.

    Parameters
    ----------
    parts
        Whether contents are lists of parts, as processors take them.
    """
    if not writer.chat_template:
        return True
    said = [("system", _PROBE), ("user", "?")]
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
        for role, text in said
    ]
    try:
        written = writer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template raises whatever it likes
        return False
    return _PROBE in str(written)


def with_instructions(
    writer: ChatWriter, messages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return messages that the chat template can write.

    Where it does not take a leading system message, its text is put before the first question,
    as templates of such models do themselves (Gemma 3).
    """
    plain = [dict(message) for message in messages]
    leads = len(plain) > 1 and plain[0].get("role") == "system" and plain[1].get("role") == "user"
    if not leads:
        return plain
    instructions, question = plain[0]["content"], plain[1]["content"]
    if takes_instructions(writer, parts=not isinstance(instructions, str)):
        return plain
    text = instructions if isinstance(instructions, str) else _text_of(instructions)
    if isinstance(question, str):
        content: Any = f"{text}\n\n{question}"
    else:
        content = [{"type": "text", "text": f"{text}\n\n"}, *question]
    return [{"role": "user", "content": content}, *plain[2:]]


def _text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")
