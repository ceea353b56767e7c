"""The conversation of ``%%ollm --chat NAME``: a list of messages in a variable of the notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.completion import Completion
from ollm_widgets.runtime.prompt import ROLES

# A message is ``role`` and ``content``: a text, or parts of which some are images.
Messages = list[dict[str, Any]]


class Talk:
    """A variable that holds a conversation; what a person changes in it counts.

    Parameters
    ----------
    variables
        The notebook's.
    name
        The variable's; a new conversation begins where there is none yet.

    Raises
    ------
    ConfigError
        If the name is none, or the variable holds something else.
    """

    def __init__(self, variables: MutableMapping[str, Any], name: str) -> None:
        if not name.isidentifier():
            raise ConfigError("--chat", f"{name!r} is no variable name.")
        self._variables = variables
        self._name = name
        held = variables.get(name, [])
        if not is_talk(held):
            raise ConfigError(
                "--chat",
                f"{name} holds {_what(held)}, and a conversation is a list of messages with role "
                "and content.",
                hint=f"Take another name, or begin anew with {name} = [].",
            )
        self._messages: Messages = held

    def asking(self, question: str, system: str | None, images: Iterable[Path] = ()) -> Messages:
        """Return the conversation with one more question; an instruction replaces the old one.

        Images come before the words of the question, as models expect them.
        """
        said = [dict(message) for message in self._messages]
        if system:
            if said and said[0]["role"] == "system":
                del said[0]
            said.insert(0, {"role": "system", "content": system})
        content: str | list[dict[str, str]] = question
        if parts := [{"type": "image", "path": str(image)} for image in images]:
            content = [*parts, {"type": "text", "text": question}]
        return [*said, {"role": "user", "content": content}]

    def keep(self, asked: Messages, answer: Completion) -> None:
        """Put what was asked and answered into the variable."""
        self._messages[:] = [*asked, {"role": "assistant", "content": answer.text}]
        self._variables[self._name] = self._messages


def is_talk(held: object) -> bool:
    """Whether a variable holds a conversation, or an empty list, which can become one."""
    return isinstance(held, list) and all(map(_is_message, held))


def _is_message(held: object) -> bool:
    if not isinstance(held, Mapping) or held.get("role") not in ROLES:
        return False
    content = held.get("content")
    if isinstance(content, list):
        return all(
            isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in content
        )
    return isinstance(content, str)


def _what(held: object) -> str:
    return (
        "a list of other things"
        if isinstance(held, list)
        else f"an object of type {type(held).__name__}"
    )
