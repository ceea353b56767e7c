"""A page of keys and values: its shape, and what turns it into bytes and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class PageShape:
    """Keys and values of some consecutive tokens of one layer.

    Parameters
    ----------
    batch, heads
        Sequences, and key-value heads of each.
    tokens
        How many tokens of each sequence.
    key_width, value_width
        Channels of a key and of a value; they differ where attention is latent (MLA).
    dtype
        Of both.
    """

    batch: int
    heads: int
    tokens: int
    key_width: int
    value_width: int
    dtype: torch.dtype

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> PageShape:
        """Shape of the page that `keys` and `values` ``[batch, heads, tokens, width]`` make."""
        batch, heads, tokens, key_width = keys.shape[-4:]
        return cls(batch, heads, tokens, key_width, values.shape[-1], keys.dtype)

    @property
    def keys(self) -> tuple[int, int, int, int]:
        """``[batch, heads, tokens, key_width]``."""
        return self.batch, self.heads, self.tokens, self.key_width

    @property
    def values(self) -> tuple[int, int, int, int]:
        """``[batch, heads, tokens, value_width]``."""
        return self.batch, self.heads, self.tokens, self.value_width

    @property
    def key_bytes(self) -> int:
        """Bytes of the keys in full precision."""
        return math.prod(self.keys) * self.dtype.itemsize

    @property
    def raw_bytes(self) -> int:
        """Bytes of keys and values in full precision."""
        return self.key_bytes + math.prod(self.values) * self.dtype.itemsize

    def views(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See full-precision bytes as keys and values, without a copy.

        Parameters
        ----------
        raw
            ``uint8 [..., raw_bytes]``, the last dimension contiguous and aligned to the dtype:
            the keys' bytes, then the values'.

        Returns
        -------
        keys, values
            ``[..., batch, heads, tokens, width]``.
        """
        keys = raw[..., : self.key_bytes].view(self.dtype)
        values = raw[..., self.key_bytes : self.raw_bytes].view(self.dtype)
        pages = raw.shape[:-1]
        return keys.view(*pages, *self.keys), values.view(*pages, *self.values)


class PageCodec(Protocol):
    """Turns pages into bytes and back.

    Every method takes one page, or many of the same shape along a leading dimension: many at
    once are faster. Devices may differ: the work is done where keys and values are, and what
    crosses is the encoded bytes.
    """

    @property
    def codec_id(self) -> str:
        """Its name, which a store keeps beside the bytes."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether the same bits come back."""
        ...

    def encoded_bytes(self, shape: PageShape) -> int:
        """Bytes of an encoded page."""
        ...

    def encode(self, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        """Write pages as bytes.

        Parameters
        ----------
        keys, values
            ``[batch, heads, tokens, width]`` or ``[pages, batch, heads, tokens, width]``, of any
            strides.
        out
            ``uint8 [encoded_bytes]`` or ``[pages, encoded_bytes]``, the last dimension contiguous.
        """
        ...

    def decode(
        self,
        data: torch.Tensor,
        shape: PageShape,
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
    ) -> None:
        """Write the keys and values that `data` encodes into two tensors of any strides.

        Parameters
        ----------
        data
            ``uint8 [encoded_bytes]`` or ``[pages, encoded_bytes]``, as `encode` wrote it.
        shape
            Of one page.
        keys_out, values_out
            ``[batch, heads, tokens, width]`` or ``[pages, batch, heads, tokens, width]``.
        """
        ...

    def decode_layers(
        self,
        data: Sequence[torch.Tensor],
        shape: PageShape,
        keys_out: Sequence[torch.Tensor],
        values_out: Sequence[torch.Tensor],
    ) -> None:
        """Decode pages of several layers, all on one device.

        What `decode` does for each of them, in few launches: while other threads read, a launch of
        a GPU's kernel may wait milliseconds for the interpreter.

        Parameters
        ----------
        data
            Of each layer, ``uint8 [pages, encoded_bytes]``.
        shape
            Of every page.
        keys_out, values_out
            Of each layer, ``[pages, batch, heads, tokens, width]``.
        """
        ...
