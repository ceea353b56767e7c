"""The tensors of one layer, laid out in one flat buffer of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ollm_widgets.weights.checkpoint.recipe import TensorRecipe

# Of a slot's first byte: what copies and kernels on accelerators like, and any dtype needs.
ALIGNMENT_BYTES = 512


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A tensor's place in the buffer of its layer.

    Parameters
    ----------
    recipe
        How the tensor comes from the checkpoint.
    name
        Name relative to the layer's module: ``"mlp.down_proj.weight"``.
    offset_bytes, size_bytes
        First byte in the buffer, and how many.
    """

    recipe: TensorRecipe
    name: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LayerLayout:
    """The places of a layer's tensors in one buffer.

    Parameters
    ----------
    slots
        One a tensor, each aligned to 512 bytes.
    size_bytes
        Of the buffer, a multiple of 512.
    """

    slots: tuple[TensorSlot, ...]
    size_bytes: int

    @classmethod
    def of(cls, prefix: str, recipes: Iterable[TensorRecipe]) -> LayerLayout:
        """Lay out the tensors below a module.

        Parameters
        ----------
        prefix
            The module's name in the model, e.g. ``"model.layers.0"``; ``""`` is the model.
        recipes
            Those of other modules are passed over.
        """
        start = f"{prefix}." if prefix else ""
        slots: list[TensorSlot] = []
        position = 0
        for recipe in recipes:
            if recipe.name.startswith(start):
                size = recipe.size_bytes
                slots.append(TensorSlot(recipe, recipe.name[len(start) :], position, size))
                position += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return cls(tuple(slots), position)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The layer's tensors in a buffer; nothing is copied.

        Parameters
        ----------
        buffer
            uint8 ``[at least size_bytes]``, contiguous, on any device.

        Returns
        -------
        dict
            Views by name relative to the layer's module.

        Raises
        ------
        ValueError
            When the buffer is too small or of another kind.
        """
        require_buffer(buffer, self.size_bytes)
        return {
            slot.name: buffer[slot.offset_bytes : slot.offset_bytes + slot.size_bytes]
            .view(slot.recipe.dtype)
            .view(slot.recipe.shape)
            for slot in self.slots
        }


def require_buffer(buffer: torch.Tensor, size_bytes: int) -> None:
    """Check that a tensor can serve as a buffer of so many bytes.

    Raises
    ------
    ValueError
        When it is not uint8, one-dimensional, contiguous and large enough.
    """
    if buffer.dtype != torch.uint8 or buffer.dim() != 1 or not buffer.is_contiguous():
        raise ValueError(
            f"The buffer must be contiguous uint8 [bytes], not {buffer.dtype} "
            f"{list(buffer.shape)} of strides {buffer.stride()}."
        )
    if buffer.numel() < size_bytes:
        raise ValueError(f"The buffer has {buffer.numel():,} bytes; {size_bytes:,} are needed.")
