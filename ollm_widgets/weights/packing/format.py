"""What a packed layer looks like: which bytes of its buffer are where in its blob.

Packed stretches are in blocks of 4096 elements, held as little-endian 32-bit words so that every
access of a decoder is a wide one. The 2048 words of two elements that a block decodes to are four
planes of 512; lane ``j`` of a packed block has three words:

- two with signs and mantissas, of planes 0 and 1, and of planes 2 and 3: the mantissas and signs
  of the second plane of each fill the places of the exponents of the first,
- one with the indices of exponents: its byte ``k`` has those of the word of plane ``k``, the
  lower element's in the low half; 15 marks an escape.

What does not fill a block passes through as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK_ELEMENTS = 4096
PLANES = 4
PACKED_WORDS = 3
LANES = BLOCK_ELEMENTS // 2 // PLANES
BLOCK_RAW_BYTES = 2 * BLOCK_ELEMENTS
BLOCK_BYTES = 4 * PACKED_WORDS * LANES
TABLE_BYTES = 256  # 16 words are used; what follows stays aligned
ALIGNMENT_BYTES = 256
ESCAPES_STEP = 1024
# Positions of escapes and the kernels' offsets are 32-bit.
MAX_ELEMENTS = 2**30

# Masks of the two elements of a word.
SIGN_AND_MANTISSA = -0x7F807F81  # 0x807F807F as int32
SIGN = -0x7FFF8000  # 0x80008000 as int32
MANTISSA = 0x007F007F

# What torch computes on at once; its scratch is a few times this, and a CPU's should stay in its
# caches.
_CPU_STEP_BLOCKS = 64
_ACCELERATOR_STEP_BLOCKS = 2048


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``[offset_bytes, offset_bytes + size_bytes)`` of a buffer."""

    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        """Offset of the first byte after it."""
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class PackedStretch:
    """Whole blocks of bf16 elements: where they are, and where their packed form is.

    The blob has, from `offset_bytes` on: the blocks, the table, and the escapes' positions
    (int32, counted in elements of this stretch) and exponents (uint8).

    Parameters
    ----------
    raw_offset_bytes
        Where its elements are in the layer's buffer.
    offset_bytes
        Where its packed form is in the blob.
    blocks
        Of 4096 elements each.
    escapes
        Length of the list, a multiple of 1024; entries beyond the escapes repeat the first.
    """

    raw_offset_bytes: int
    offset_bytes: int
    blocks: int
    escapes: int

    @property
    def elements(self) -> int:
        """Elements that it decodes to."""
        return self.blocks * BLOCK_ELEMENTS

    @property
    def raw(self) -> ByteRange:
        """Its place in the layer's buffer."""
        return ByteRange(self.raw_offset_bytes, self.blocks * BLOCK_RAW_BYTES)

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed form."""
        return self.blocks * BLOCK_BYTES + TABLE_BYTES + 5 * self.escapes


@dataclass(frozen=True, slots=True)
class PassedStretch:
    """Bytes of the layer's buffer that the blob has as they are."""

    raw_offset_bytes: int
    offset_bytes: int
    size_bytes: int

    @property
    def raw(self) -> ByteRange:
        """Its place in the layer's buffer."""
        return ByteRange(self.raw_offset_bytes, self.size_bytes)


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """How a blob decodes to a layer's buffer; all shapes are known, so a graph can capture it.

    Parameters
    ----------
    raw_size_bytes
        Bytes of the layer's buffer.
    size_bytes
        Bytes of the blob.
    packed, passed
        Stretches that together cover the layer's buffer, each in ascending order.

    Raises
    ------
    ValueError
        If the stretches do not cover the buffer exactly, or the blob does not hold them.
    """

    raw_size_bytes: int
    size_bytes: int
    packed: tuple[PackedStretch, ...]
    passed: tuple[PassedStretch, ...]

    def __post_init__(self) -> None:
        for packed in self.packed:
            if not (
                0 < packed.elements <= MAX_ELEMENTS
                and 0 <= packed.escapes <= packed.elements
                and packed.escapes % ESCAPES_STEP == 0
                and packed.raw_offset_bytes % 16 == 0
            ):
                raise ValueError(f"a packed stretch cannot be decoded: {packed}")
        parts: tuple[PackedStretch | PassedStretch, ...] = (*self.packed, *self.passed)
        covered = 0
        for raw in sorted((part.raw for part in parts), key=lambda raw: raw.offset_bytes):
            if raw.offset_bytes != covered or raw.size_bytes <= 0:
                raise ValueError(
                    f"{raw.size_bytes} bytes at {raw.offset_bytes} of the layer's buffer, "
                    f"expected at {covered}"
                )
            covered = raw.end_bytes
        if covered != self.raw_size_bytes:
            raise ValueError(f"stretches cover {covered} of {self.raw_size_bytes} bytes")
        end = 0
        for stretch in sorted(parts, key=lambda part: part.offset_bytes):
            if stretch.offset_bytes < end or stretch.offset_bytes % ALIGNMENT_BYTES:
                raise ValueError(f"a stretch overlaps another or is not aligned: {stretch}")
            end = stretch.offset_bytes + stretch.size_bytes
        if end > self.size_bytes:
            raise ValueError(f"stretches take {end} bytes of a blob of {self.size_bytes}")

    @property
    def elements(self) -> int:
        """Elements that are packed."""
        return sum(stretch.elements for stretch in self.packed)

    @property
    def escapes(self) -> int:
        """Entries of the escapes' lists."""
        return sum(stretch.escapes for stretch in self.packed)

    @property
    def raw_bytes(self) -> int:
        """Bytes that pass through as they are."""
        return sum(stretch.size_bytes for stretch in self.passed)


@dataclass(frozen=True, slots=True)
class StretchParts:
    """Views of the parts of a packed stretch in its blob.

    Parameters
    ----------
    blocks
        int32 [blocks, 3, lanes].
    table
        int32 [16], exponents shifted to their place in a bf16 value; the last is 0.
    positions
        int32 [escapes].
    exponents
        uint8 [escapes].
    """

    blocks: torch.Tensor
    table: torch.Tensor
    positions: torch.Tensor
    exponents: torch.Tensor

    @classmethod
    def of(cls, blob: torch.Tensor, stretch: PackedStretch) -> StretchParts:
        """Find them in a blob of uint8."""
        table = stretch.offset_bytes + stretch.blocks * BLOCK_BYTES
        positions = table + TABLE_BYTES
        exponents = positions + 4 * stretch.escapes
        blocks = blob[stretch.offset_bytes : table].view(torch.int32)
        return cls(
            blocks.view(stretch.blocks, PACKED_WORDS, LANES),
            blob[table : table + 64].view(torch.int32),
            blob[positions:exponents].view(torch.int32),
            blob[exponents : exponents + stretch.escapes],
        )


def index_bytes(blocks: torch.Tensor) -> torch.Tensor:
    """View the indices of packed blocks, int32 [blocks, 3, lanes], as uint8 [blocks, 4, lanes]."""
    by_lane = blocks[:, 2].view(torch.uint8).view(len(blocks), LANES, PLANES)
    return by_lane.transpose(1, 2)


def steps_of(blocks: int, device: torch.device) -> Iterator[slice]:
    """Cut blocks into runs for which torch needs little scratch."""
    step = _CPU_STEP_BLOCKS if device.type == "cpu" else _ACCELERATOR_STEP_BLOCKS
    for start in range(0, blocks, step):
        yield slice(start, min(start + step, blocks))


def require_bytes(buffer: torch.Tensor, size_bytes: int, what: str) -> torch.Tensor:
    """Return the first bytes of a buffer that decoders can read or write as words.

    Raises
    ------
    ValueError
        If it is not uint8 in one piece, too small, or not aligned to 16 bytes in its storage.
    """
    if (
        buffer.dtype != torch.uint8
        or buffer.dim() != 1
        or not buffer.is_contiguous()
        or buffer.numel() < size_bytes
        or buffer.storage_offset() % 16
    ):
        raise ValueError(
            f"{what} is {size_bytes} bytes of uint8 in one piece, aligned to 16; this is "
            f"{buffer.dtype} {list(buffer.shape)} at {buffer.storage_offset()}"
        )
    return buffer[:size_bytes]
