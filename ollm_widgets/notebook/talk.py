"""The conversation of ``%%ollm --chat NAME``: a list of messages in a variable of the notebook."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.completion import Completion
from ollm_widgets.runtime.prompt import ROLES

Messages = list[dict[str, str]]


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
        if not isinstance(held, list) or not all(map(_is_message, held)):
            raise ConfigError(
                "--chat",
                f"{name} holds {_what(held)}, and a conversation is a list of messages with role "
                "and content.",
                hint=f"Take another name, or begin anew with {name} = [].",
            )
        self._messages: Messages = held

    def asking(self, question: str, system: str | None) -> Messages:
        """Return the conversation with one more question; an instruction replaces the old one."""
        said = [dict(message) for message in self._messages]
        if system:
            if said and said[0]["role"] == "system":
                del said[0]
            said.insert(0, {"role": "system", "content": system})
        return [*said, {"role": "user", "content": question}]

    def keep(self, asked: Messages, answer: Completion) -> None:
        """Put what was asked and answered into the variable."""
        self._messages[:] = [*asked, {"role": "assistant", "content": answer.text}]
        self._variables[self._name] = self._messages


def _is_message(held: object) -> bool:
    return (
        isinstance(held, Mapping)
        and held.get("role") in ROLES
        and isinstance(held.get("content"), str)
    )


def _what(held: object) -> str:
    return (
        "a list of other things"
        if isinstance(held, list)
        else f"an object of type {type(held).__name__}"
    )
