"""From messages or text to token ids, checked against the model's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ollm_widgets.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

ROLES = ("system", "user", "assistant")


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> BatchEncoding:
    """Encode one request.

    Parameters
    ----------
    prompt
        Text, which becomes one user message where the model has a chat template; or
        messages with ``role`` and ``content``.

    Returns
    -------
    BatchEncoding
        ``input_ids`` and ``attention_mask``, ``[1, prompt]``.

    Raises
    ------
    ConfigError
        For an empty prompt, an unknown role, or messages for a model without a template.
    """
    has_template = bool(tokenizer.chat_template)
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ConfigError("prompt", "is empty.", hint="Type something to send.")
        if not has_template:
            return cast("BatchEncoding", tokenizer(prompt, return_tensors="pt"))
        prompt = [{"role": "user", "content": prompt}]
    messages = _checked(prompt)
    if not has_template:
        raise ConfigError(
            "messages",
            "this model has no chat template, so it cannot tell speakers apart.",
            hint="Pass one text instead.",
        )
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return cast("BatchEncoding", encoded)


def room_for_new_tokens(prompt_tokens: int, wanted: int, context_length: int | None) -> int:
    """How many tokens may follow the prompt.

    Raises
    ------
    ConfigError
        If the prompt alone fills the context.
    """
    if context_length is None:
        return wanted
    room = context_length - prompt_tokens
    if room < 1:
        raise ConfigError(
            "prompt",
            f"has {prompt_tokens:,} tokens; the model reads at most {context_length:,}, "
            "answer included.",
            hint="Shorten it, or start a new conversation.",
        )
    return min(wanted, room)


def attention_for(input_ids: torch.Tensor) -> torch.Tensor:
    """A mask that shows every token, ``[batch, prompt]``."""
    import torch

    return torch.ones_like(input_ids)


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    if not messages:
        raise ConfigError("messages", "is empty.", hint="Pass at least one user message.")
    checked = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise ConfigError(
                f"messages[{index}]",
                f"needs a role out of {', '.join(ROLES)} and a text as content, got role {role!r}.",
            )
        checked.append({"role": role, "content": content})
    return checked
