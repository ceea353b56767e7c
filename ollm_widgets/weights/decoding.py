"""Layers that are held otherwise than they run: packed without loss, or quantized as stored."""

from __future__ import annotations

from typing import TypeAlias

import torch

from ollm_widgets.weights.packing.format import PackedFormat
from ollm_widgets.weights.packing.unpacking import unpack_into
from ollm_widgets.weights.quantized.form import StoredForm

# Both say how many bytes they take, and how many they decode to.
HeldForm: TypeAlias = PackedFormat | StoredForm


def decode_into(held: torch.Tensor, form: HeldForm, out: torch.Tensor) -> None:
    """Decode a layer to its buffer, on the device where both are.

    It may be captured in a CUDA graph once it has run outside of one.

    Parameters
    ----------
    held
        uint8 ``[at least form.size_bytes]``.
    form
        What it is.
    out
        uint8 ``[at least form.raw_size_bytes]``.
    """
    if isinstance(form, StoredForm):
        form.expand_into(held, out)
    else:
        unpack_into(held, form, out)
