"""Pages of 8-bit or 4-bit integers: keys by channel, values by token; `sections` has the bytes.

A few channels of the keys are far larger than the others for every token, so each channel has
scales of its own; values have no such channels, so each token has its own (KIVI, arXiv
2402.02750). A group's range is that of its numbers: cut to where the squared error is least, the
KL of SmolLM2's next tokens was 0.009 nats, not 0.004, as what stands out is what attention looks
for. tests/bench/kv_quality.py has the figures of the group sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.codecs.sections import Bits, QuantizedLayout, quantized_layout

if TYPE_CHECKING:
    from types import ModuleType

# Of the keys and of the values; for the figures see tests/bench/kv_quality.py.
_GROUP_SIZES: dict[Bits, tuple[int, int]] = {8: (64, 64), 4: (32, 64)}

# Worked on at once: what stays in a processor's cache, and what a device has to spare.
_CPU_NUMBERS = 1 << 19
_DEVICE_NUMBERS = 1 << 25

_MOST_FLOAT16 = 65504.0


class QuantizedCodec:
    """Pages of integers; see the module, and `PageCodec`.

    Each number comes back with an error of at most half the scale of its group, apart from the
    rounding of float32 and of the dtype. A scale is the range of the group's numbers divided by
    255 or by 15, rounded up to float16.

    Parameters
    ----------
    bits
        Of a code: 8 or 4.
    key_group_tokens
        Tokens of a channel that share a scale; as is usual for `bits` if not given.
    value_group_channels
        Channels of a token that share a scale; likewise.
    """

    lossless = False

    def __init__(
        self,
        bits: Bits,
        *,
        key_group_tokens: int | None = None,
        value_group_channels: int | None = None,
    ) -> None:
        usual_tokens, usual_channels = _GROUP_SIZES[bits]
        self.bits: Bits = bits
        self.key_group_tokens = key_group_tokens or usual_tokens
        self.value_group_channels = value_group_channels or usual_channels

    @property
    def codec_id(self) -> str:
        """``int8`` or ``int4``."""
        return f"int{self.bits}"

    def layout(self, shape: PageShape) -> QuantizedLayout:
        """Say where the sections of a page of `shape` are."""
        return quantized_layout(
            shape,
            self.bits,
            key_group_tokens=self.key_group_tokens,
            value_group_channels=self.value_group_channels,
        )

    def encoded_bytes(self, shape: PageShape) -> int:
        """Bytes of an encoded page."""
        return self.layout(shape).size_bytes

    def encode(self, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        """Quantize pages.

        Finite numbers beyond the range of float16 come back clamped to it.
        """
        if out.device != keys.device:
            encoded = torch.empty(out.shape, dtype=torch.uint8, device=keys.device)
            self.encode(keys, values, encoded)
            out.copy_(encoded)
            return
        if keys.dim() == 5:
            for pages in _bites(keys, values):
                self._encode(keys[pages], values[pages], out[pages])
        else:
            self._encode(keys, values, out)

    def _encode(self, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        layout = self.layout(PageShape.of(keys, values))
        key_groups, value_groups = self._groupings
        _quantize(keys, key_groups, [section.view(out) for section in layout.keys])
        _quantize(values, value_groups, [section.view(out) for section in layout.values])
        for section in (*layout.keys, *layout.values):
            out[..., section.end : section.padded_end] = 0

    def decode(
        self,
        data: torch.Tensor,
        shape: PageShape,
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
    ) -> None:
        """Write what the integers stand for."""
        data = data.to(keys_out.device)
        kernels = _kernels() if keys_out.is_cuda else None
        if kernels is not None:
            if keys_out.dim() == 4:
                data, keys_out, values_out = data[None], keys_out[None], values_out[None]
            self._decode_by(kernels, shape, [data], [keys_out], [values_out])
        elif keys_out.dim() == 5:
            for pages in _bites(keys_out, values_out):
                self._decode(data[pages], shape, keys_out[pages], values_out[pages])
        else:
            self._decode(data, shape, keys_out, values_out)

    def _decode(
        self,
        data: torch.Tensor,
        shape: PageShape,
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
    ) -> None:
        layout = self.layout(shape)
        key_groups, value_groups = self._groupings
        _dequantize([section.view(data) for section in layout.keys], key_groups, keys_out)
        _dequantize([section.view(data) for section in layout.values], value_groups, values_out)

    def decode_layers(
        self,
        data: Sequence[torch.Tensor],
        shape: PageShape,
        keys_out: Sequence[torch.Tensor],
        values_out: Sequence[torch.Tensor],
    ) -> None:
        """Write what the integers of several layers stand for."""
        kernels = _kernels() if keys_out[0].is_cuda else None
        if kernels is not None and all(map(_alike, (data, keys_out, values_out))):
            self._decode_by(kernels, shape, data, keys_out, values_out)
            return
        for pages, keys, values in zip(data, keys_out, values_out, strict=True):
            self.decode(pages, shape, keys, values)

    def _decode_by(
        self,
        kernels: ModuleType,
        shape: PageShape,
        data: Sequence[torch.Tensor],
        keys_out: Sequence[torch.Tensor],
        values_out: Sequence[torch.Tensor],
    ) -> None:
        if not len(data[0]):
            return
        layout = self.layout(shape)
        key_group, value_group = (self.key_group_tokens, 1), (1, self.value_group_channels)
        kernels.dequantize(data, layout.keys, self.bits, key_group, keys_out)
        kernels.dequantize(data, layout.values, self.bits, value_group, values_out)

    @property
    def _groupings(self) -> tuple[_Grouping, _Grouping]:
        return (
            _Grouping(-2, self.key_group_tokens, self.bits),
            _Grouping(-1, self.value_group_channels, self.bits),
        )


@dataclass(frozen=True, slots=True)
class _Grouping:
    """Which numbers share a scale: so many along a dimension."""

    dim: int
    size: int
    bits: Bits

    def parts(self, length: int) -> Iterator[_Part]:
        """Cut a dimension into whole groups, and a last one if it is smaller."""
        whole, rest = divmod(length, self.size)
        if whole:
            yield _Part(self.dim, 0, whole, 0, self.size)
        if rest:
            yield _Part(self.dim, whole, 1, whole * self.size, rest)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some groups of the same size, next to each other along a dimension."""

    dim: int
    first_group: int
    groups: int
    first: int
    size: int

    def numbers(self, states: torch.Tensor) -> torch.Tensor:
        """The numbers of these groups; `dim` counts those of a group, the one before it groups."""
        chosen = states.narrow(self.dim, self.first, self.groups * self.size)
        grouped: torch.Tensor = chosen.unflatten(self.dim, (self.groups, self.size))  # type: ignore[no-untyped-call]
        return grouped

    def of_groups(self, scales: torch.Tensor) -> torch.Tensor:
        """The scales, or zeros, of these groups, so that they broadcast over `numbers`."""
        return scales.narrow(self.dim, self.first_group, self.groups).unsqueeze(self.dim)


def _alike(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all are on one device, of one dtype, and the same steps apart."""
    first = tensors[0]
    return all(
        (each.device, each.dtype, each.shape, each.stride())
        == (first.device, first.dtype, first.shape, first.stride())
        for each in tensors
    )


@cache
def _kernels() -> ModuleType | None:
    """The module of the kernel; None without Triton."""
    try:
        from ollm_widgets.kv.codecs import kernels
    except ImportError:
        return None
    return kernels


def _bites(keys: torch.Tensor, values: torch.Tensor) -> Iterator[slice]:
    """Pages that are worked on at once."""
    at_once = _CPU_NUMBERS if keys.device.type == "cpu" else _DEVICE_NUMBERS
    page_numbers = max(keys[0].numel(), values[0].numel(), 1) if len(keys) else 1
    step = max(1, at_once // page_numbers)
    for first in range(0, len(keys), step):
        yield slice(first, first + step)


def _quantize(states: torch.Tensor, grouping: _Grouping, out: list[torch.Tensor]) -> None:
    """Write codes, scales and zeros."""
    codes_out, scales_out, zeros_out = out
    most = (1 << grouping.bits) - 1
    # Below 128 so that they fit int8, to which torch converts six times faster than to uint8.
    codes = torch.empty(states.shape, dtype=torch.int8, device=states.device)
    shift = 128 if grouping.bits == 8 else 0
    for part in grouping.parts(states.shape[grouping.dim]):
        numbers = part.numbers(states).float()
        # Both at once, `aminmax`, take a hundred times longer.
        low = numbers.amin(grouping.dim, keepdim=True)
        high = numbers.amax(grouping.dim, keepdim=True)
        zeros = _float16_below(low)
        scales = _float16_above((high - zeros.float()) / most)
        steps = scales.float().reciprocal_().masked_fill_(scales == 0, 0.0)
        numbers = (numbers - zeros.float()).mul_(steps).round_().clamp_(0, most)
        part.numbers(codes).copy_(numbers.sub_(shift) if shift else numbers)
        part.of_groups(scales_out).copy_(scales)
        part.of_groups(zeros_out).copy_(zeros)
    positive = codes.view(torch.uint8)
    codes_out.copy_(_pack(positive) if grouping.bits == 4 else positive.bitwise_xor_(shift))


def _dequantize(encoded: list[torch.Tensor], grouping: _Grouping, out: torch.Tensor) -> None:
    """Undo `_quantize`."""
    codes, scales, zeros = encoded
    if grouping.bits == 4:
        codes = _unpack(codes, out.shape[-1])
    for part in grouping.parts(out.shape[grouping.dim]):
        numbers = part.numbers(codes).float()
        numbers.mul_(part.of_groups(scales).float()).add_(part.of_groups(zeros).float())
        part.numbers(out).copy_(numbers)


def _float16_below(states: torch.Tensor) -> torch.Tensor:
    """Greatest float16 that is not above each number, or the least finite one."""
    rounded = states.clamp(-_MOST_FLOAT16, _MOST_FLOAT16).half()
    bits = rounded.view(torch.int16)
    # The next number down: towards zero it is one less, away from zero one more.
    below = torch.where(rounded > 0, bits - 1, torch.where(rounded < 0, bits + 1, -0x7FFF))
    fits = (rounded.float() <= states) | (rounded <= -_MOST_FLOAT16)
    return torch.where(fits, bits, below).view(torch.float16)


def _float16_above(states: torch.Tensor) -> torch.Tensor:
    """Least float16 that is not below each number, none of them negative, or the greatest one."""
    rounded = states.clamp(0.0, _MOST_FLOAT16).half()
    bits = rounded.view(torch.int16)
    fits = (rounded.float() >= states) | (rounded >= _MOST_FLOAT16)
    return torch.where(fits, bits, bits + 1).view(torch.float16)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Put two 4-bit codes of the last dimension into a byte."""
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    # Two bytes at once, the first one the lower: 0x0b0a becomes 0xba.
    pairs = codes.view(torch.int16)
    return (pairs >> 4).bitwise_or_(pairs).to(torch.uint8)


def _unpack(packed: torch.Tensor, width: int) -> torch.Tensor:
    """Undo `_pack`."""
    pairs = packed.to(torch.int16)
    codes = (pairs << 4).bitwise_or_(pairs).bitwise_and_(0x0F0F).view(torch.uint8)
    return codes[..., :width]
