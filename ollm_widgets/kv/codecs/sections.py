"""Where everything is in the bytes of a quantized page.

A code q stands for ``zero + q * scale``, computed in float32.

A page has B sequences, H heads, T tokens, keys of K and values of V channels. Each channel of the
keys has a scale and a zero for every G tokens, counted from the page's first; each token's value
has them for every C channels. ``R = ceil(T / G)`` and ``N = ceil(V / C)``: the last group may be
smaller. `int8` has G = C = 64, `int4` has G = 32 and C = 64; every page begins a group.

Six sections follow each other, each contiguous (the last index runs fastest), each beginning at a
multiple of 16 bytes with zeros before it where needed; the page's size is a multiple of 16 too:

==============  =====================  =============================  ==========================
section         int8                   int4                           that of token t, channel c
==============  =====================  =============================  ==========================
key codes       uint8 [B, H, T, K]     uint8 [B, H, T, ceil(K / 2)]
key scales      float16 [B, H, R, K]   the same                       ``[b, h, t // G, c]``
key zeros       float16 [B, H, R, K]   the same                       ``[b, h, t // G, c]``
value codes     uint8 [B, H, T, V]     uint8 [B, H, T, ceil(V / 2)]
value scales    float16 [B, H, T, N]   the same                       ``[b, h, t, c // C]``
value zeros     float16 [B, H, T, N]   the same                       ``[b, h, t, c // C]``
==============  =====================  =============================  ==========================

int4: byte i of a row holds channel 2i in its low four bits and channel 2i + 1 in its high four; in
the last byte of an odd width these are zero. Numbers are little-endian. A scale is not
negative; it is 0 where all numbers of the group are its zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from ollm_widgets.kv.codecs.page import PageShape

Bits: TypeAlias = Literal[4, 8]

ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Section:
    """A part of an encoded page.

    Parameters
    ----------
    offset
        First byte, from the page's first.
    shape
        Of its elements.
    dtype
        ``uint8`` or ``float16``.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """Byte after its last."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def padded_end(self) -> int:
        """First byte of what follows it."""
        return -(-self.end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def view(self, pages: torch.Tensor) -> torch.Tensor:
        """See the section of ``uint8 [..., encoded_bytes]`` as ``[..., *shape]``."""
        elements = pages[..., self.offset : self.end].view(self.dtype)
        return elements.view(*pages.shape[:-1], *self.shape)


@dataclass(frozen=True, slots=True)
class QuantizedLayout:
    """The sections of an encoded page, in their order."""

    key_codes: Section
    key_scales: Section
    key_zeros: Section
    value_codes: Section
    value_scales: Section
    value_zeros: Section

    @property
    def keys(self) -> tuple[Section, Section, Section]:
        """Codes, scales and zeros of the keys."""
        return self.key_codes, self.key_scales, self.key_zeros

    @property
    def values(self) -> tuple[Section, Section, Section]:
        """Codes, scales and zeros of the values."""
        return self.value_codes, self.value_scales, self.value_zeros

    @property
    def size_bytes(self) -> int:
        """Of the page."""
        return self.value_zeros.padded_end


def quantized_layout(
    shape: PageShape, bits: Bits, *, key_group_tokens: int, value_group_channels: int
) -> QuantizedLayout:
    """Say where everything is in a page of `shape`."""
    rows = (shape.batch, shape.heads, shape.tokens)
    per_byte = 8 // bits
    token_groups = -(-shape.tokens // key_group_tokens)
    key_scales = (shape.batch, shape.heads, token_groups, shape.key_width)
    value_scales = (*rows, -(-shape.value_width // value_group_channels))
    sections: list[Section] = []
    for section_shape, dtype in (
        ((*rows, -(-shape.key_width // per_byte)), torch.uint8),
        (key_scales, torch.float16),
        (key_scales, torch.float16),
        ((*rows, -(-shape.value_width // per_byte)), torch.uint8),
        (value_scales, torch.float16),
        (value_scales, torch.float16),
    ):
        offset = sections[-1].padded_end if sections else 0
        sections.append(Section(offset, section_shape, dtype))
    return QuantizedLayout(*sections)
