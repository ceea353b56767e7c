"""From messages or text, and images among them, to token ids within the model's context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.image_inputs import ImageInputs, placeholder_of
from ollm_widgets.runtime.images import MOST_IMAGES, open_image
from ollm_widgets.runtime.instructions import with_instructions

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedTokenizerBase

# ``role``, and ``content``: a text, or parts such as ``{"type": "text", "text": ...}``.
Message = Mapping[str, Any]
Prompt = str | Sequence[Message]

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class NoImages:
    """Why a request may hold no image, as a clause, and what to do."""

    why: str
    hint: str


_TEXT_CALL = NoImages("this call takes text only", "Leave the image out.")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One request as the model takes it.

    Parameters
    ----------
    input_ids, attention_mask
        ``[1, prompt]``.
    images
        What the model sees beside them; None for a text.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    images: ImageInputs | None = None


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, no_images: NoImages = _TEXT_CALL
) -> BatchEncoding:
    """Encode one request that is a text.

    Parameters
    ----------
    prompt
        Text, which becomes one user message where the model has a chat template; or
        messages with ``role`` and ``content``.
    no_images
        What to say of an image among them.

    Returns
    -------
    BatchEncoding
        ``input_ids`` and ``attention_mask``, ``[1, prompt]``.

    Raises
    ------
    ConfigError
        For an empty prompt, an unknown role, an image, or messages for a model without a template.
    """
    has_template = bool(tokenizer.chat_template)
    if isinstance(prompt, str) and not has_template:
        return cast("BatchEncoding", tokenizer(_not_empty(prompt), return_tensors="pt"))
    messages = [
        {"role": role, "content": "".join(_texts(content, at, no_images))}
        for role, content, at in _checked(prompt)
    ]
    if not has_template:
        raise ConfigError(
            "messages",
            "this model has no chat template, so it cannot tell speakers apart.",
            hint="Pass one text instead.",
        )
    with _template_errors():
        encoded = tokenizer.apply_chat_template(
            with_instructions(tokenizer, messages),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
    return cast("BatchEncoding", encoded)


def encode_request(
    tokenizer: PreTrainedTokenizerBase,
    processor: Any,
    prompt: Prompt,
    no_images: NoImages,
    config: Any = None,
) -> EncodedPrompt:
    """Encode one request, its images through the model's own processor.

    Parameters
    ----------
    processor
        As transformers made it; None for a model that is given text only.
    prompt
        As for `encode_prompt`; a message's ``content`` may also be parts of type ``text`` and
        ``image``, see `open_image`.
    no_images
        What to say of an image where there is no processor.
    config
        The model's; see `ImageInputs.of`.

    Raises
    ------
    ConfigError
        For what `encode_prompt` refuses, and images that cannot be read.
    """
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if processor is None or (isinstance(prompt, str) and not template):
        encoded = encode_prompt(tokenizer, prompt, no_images)
        return EncodedPrompt(encoded["input_ids"], encoded["attention_mask"])
    conversation = _with_images(prompt)
    if not template:
        raise ConfigError(
            "messages",
            "this model has no chat template, so nothing says where an image belongs.",
            hint="Pass one text instead.",
        )
    _refuse_marks(conversation, tokenizer, processor, config)
    writer = processor if getattr(processor, "chat_template", None) else tokenizer
    conversation = with_instructions(writer, conversation)
    try:
        with _template_errors():
            given = processor.apply_chat_template(
                conversation,
                chat_template=template if isinstance(template, str) else None,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
    except ConfigError:
        raise
    except ValueError as error:  # of images that it does not take
        raise ConfigError(
            "messages", f"the model's processor does not take them: {error}"
        ) from error
    inputs = dict(given)
    input_ids = inputs.pop("input_ids")
    mask = inputs.pop("attention_mask", None)
    mask = attention_for(input_ids) if mask is None else mask
    if not any(part["type"] == "image" for each in conversation for part in each["content"]):
        return EncodedPrompt(input_ids, mask)
    return EncodedPrompt(input_ids, mask, ImageInputs.of(inputs, input_ids, config))


@contextlib.contextmanager
def _template_errors() -> Iterator[None]:
    """Say what a chat template refuses: speakers that do not take turns, for one."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise ConfigError(
            "messages", f"the model's chat template refuses them: {error}."
        ) from error


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


def _not_empty(prompt: str) -> str:
    if not prompt.strip():
        raise ConfigError("prompt", "is empty.", hint="Type something to send.")
    return prompt


def _checked(prompt: Prompt) -> Iterator[tuple[str, Any, str]]:
    """Role, content, and place of each message."""
    if isinstance(prompt, str):
        yield "user", _not_empty(prompt), "prompt"
        return
    if not prompt:
        raise ConfigError("messages", "is empty.", hint="Pass at least one user message.")
    for index, message in enumerate(prompt):
        at = f"messages[{index}]"
        role, content = message.get("role"), message.get("content")
        parts = isinstance(content, Sequence) and not isinstance(content, str | bytes)
        if role not in ROLES or not (isinstance(content, str) or parts):
            raise ConfigError(
                at,
                f"needs a role out of {', '.join(ROLES)} and a text or parts as content, "
                f"got role {role!r}.",
            )
        yield str(role), content, at


def _parts(content: Any, at: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each part of a content that is no text, of a known type, with its place."""
    for index, part in enumerate(content):
        place = f"{at}.content[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "audio":
            raise ConfigError(
                place, "audio is not given to models in this version.", hint="Leave it out."
            )
        if kind not in ("text", "image") or (
            kind == "text" and not isinstance(part.get("text"), str)
        ):
            raise ConfigError(
                place,
                'a part is {"type": "text", "text": ...} or {"type": "image", "image": ...}, '
                f"got type {kind!r}.",
            )
        yield part, place


def _refuse_marks(
    conversation: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    processor: Any,
    config: Any,
) -> None:
    """Refuse a text with what stands for an image to the model, as there is none for it."""
    token = placeholder_of(config)
    named = (
        getattr(processor, "image_token", None),
        None if token is None else tokenizer.convert_ids_to_tokens(token),
    )
    marks = [mark for mark in named if isinstance(mark, str) and mark]
    texts = (part.get("text", "") for each in conversation for part in each["content"])
    found = next((mark for text in texts for mark in marks if mark in text), None)
    if found is not None:
        raise ConfigError(
            "messages",
            f"a text holds {found}, which stands for an image to this model.",
            hint="Write it in another way.",
        )


def _texts(content: Any, at: str, no_images: NoImages) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for part, place in _parts(content, at):
        if part["type"] == "image":
            raise ConfigError(place, f"is an image; {no_images.why}.", hint=no_images.hint)
        yield part["text"]


def _with_images(prompt: Prompt) -> list[dict[str, Any]]:
    """Messages as transformers' processors take them: all contents are parts."""
    messages: list[dict[str, Any]] = []
    images = 0
    for role, content, at in _checked(prompt):
        if isinstance(content, str):
            messages.append({"role": role, "content": [{"type": "text", "text": content}]})
            continue
        parts: list[dict[str, Any]] = []
        for part, place in _parts(content, at):
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
                continue
            images += 1
            if images > MOST_IMAGES:
                raise ConfigError(
                    place,
                    f"is image {images}; a request may have {MOST_IMAGES}.",
                    hint="Leave some out.",
                )
            parts.append({"type": "image", "image": open_image(part, place)})
        messages.append({"role": role, "content": parts})
    return messages
