"""Pages in full precision: the bytes of the keys, then those of the values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ollm_widgets.kv.codecs.page import PageShape


class FullCodec:
    """The same bits come back; see `PageCodec`."""

    codec_id = "full"
    lossless = True

    def encoded_bytes(self, shape: PageShape) -> int:
        """Bytes of an encoded page."""
        return shape.raw_bytes

    def encode(self, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        """Copy pages to bytes."""
        key_bytes, value_bytes = PageShape.of(keys, values).views(out)
        key_bytes.copy_(keys)
        value_bytes.copy_(values)

    def decode(
        self,
        data: torch.Tensor,
        shape: PageShape,
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
    ) -> None:
        """Copy bytes to pages."""
        self.decode_layers([data], shape, [keys_out], [values_out])

    def decode_layers(
        self,
        data: Sequence[torch.Tensor],
        shape: PageShape,
        keys_out: Sequence[torch.Tensor],
        values_out: Sequence[torch.Tensor],
    ) -> None:
        """Copy bytes to pages of several layers, in one call."""
        keys, values = zip(*map(shape.views, data), strict=True)
        torch._foreach_copy_([*keys_out, *values_out], [*keys, *values])
