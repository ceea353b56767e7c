"""What a processor made of a prompt's images, and what of it a request still has to be given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Inputs that are as long as the prompt: which tokens are an image's.
_TOKEN_TYPES = "token_type_ids"
# Inputs by which some models count positions: the grid of patches of each image.
_GRIDS = "_grid_thw"
# What configs call the token in an image's places.
_PLACEHOLDERS = ("image_token_id", "image_token_index")


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """The images of one prompt, as the model takes them.

    Parameters
    ----------
    inputs
        By the names of the model's arguments: ``pixel_values`` and what belongs to it.
    mark
        Stands for an image's tokens where prompts are compared: negative, and another number for
        other pixels.
    placeholder
        The token whose place an image takes in ``input_ids``; None where it is not known.
    stop
        Tokens up to the end of the last image; all of the prompt where it is not known.
    """

    inputs: Mapping[str, Any]
    mark: int
    placeholder: int | None
    stop: int

    @classmethod
    def of(cls, inputs: Mapping[str, Any], input_ids: torch.Tensor, config: Any) -> ImageInputs:
        """Gather what a processor gave.

        Parameters
        ----------
        inputs
            All of it but ids and mask.
        input_ids
            ``[1, prompt]``.
        config
            The model's, which names the token that an image's places have.
        """
        ids: list[int] = input_ids[0].tolist()
        placeholder = placeholder_of(config)
        places = [at for at, token in enumerate(ids) if token == placeholder]
        return cls(
            inputs=dict(inputs),
            mark=_mark_of(inputs),
            placeholder=placeholder if places else None,
            stop=places[-1] + 1 if places else len(ids),
        )

    def marked(self, ids: Sequence[int]) -> list[int]:
        """The ids as they are compared: other images are other tokens."""
        if self.placeholder is None:
            return [self.mark] * len(ids)
        return [self.mark if token == self.placeholder else token for token in ids]

    def given(self, kept_tokens: int, like: torch.nn.Module) -> dict[str, Any]:
        """What a pass has to be given after the tokens that a cache holds.

        Parameters
        ----------
        kept_tokens
            0, or at least `stop`: behind the images only their places are needed, by models that
            count positions by them.
        like
            The model, whose dtype pixels get, as ``inputs.to(model.device, model.dtype)`` does.
        """
        inputs = self.inputs
        if kept_tokens:
            if kept_tokens < self.stop:
                raise ValueError("Images cannot be continued from their midst.")
            grids = any(name.endswith(_GRIDS) for name in inputs)
            wanted = (_GRIDS, _TOKEN_TYPES) if grids else ()
            inputs = {name: value for name, value in inputs.items() if name.endswith(wanted)}
        return {name: _moved(value, like) for name, value in inputs.items()}

    def continued(self, more: int) -> ImageInputs:
        """The same images, of a prompt with `more` tokens of text behind it."""
        import torch

        longer = {
            name: torch.nn.functional.pad(value, (0, more))
            for name, value in self.inputs.items()
            if name.endswith(_TOKEN_TYPES)
        }
        return replace(self, inputs={**self.inputs, **longer})


def placeholder_of(config: Any) -> int | None:
    """The token that a model's config names for an image's places; None where it names none."""
    named = (getattr(config, name, None) for name in _PLACEHOLDERS)
    return next((token for token in named if isinstance(token, int)), None)


def _moved(value: Any, like: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        dtype = like.dtype if value.is_floating_point() else value.dtype
        return value.to(like.device, dtype)
    if isinstance(value, list | tuple):
        return type(value)(_moved(each, like) for each in value)
    return value


def _mark_of(inputs: Mapping[str, Any]) -> int:
    """A number of 60 bits for the pixels, by what the model sees of them."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(inputs):
        if not name.endswith(_TOKEN_TYPES):
            digest.update(name.encode())
            for piece in _pieces(inputs[name]):
                digest.update(piece)
    return -1 - (int.from_bytes(digest.digest()) >> 4)


def _pieces(value: Any) -> Iterator[bytes]:
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{list(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}]".encode()
        for each in value:
            yield from _pieces(each)
    else:
        yield repr(value).encode()
