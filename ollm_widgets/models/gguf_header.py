"""The header of a GGUF file: metadata and tensor extents, read with bounds on every length.

The ``gguf`` library's own reader follows the lengths in the file without a bound (an array that
says 2**60 elements keeps it busy for ever) and takes two seconds for a vocabulary of 49,152, so
the header is walked here and the library is left to read the data. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ollm_widgets.errors import MalformedModelError
from ollm_widgets.models.tensors import TensorHeader

MAX_HEADER_BYTES = 256_000_000
_MAX_ENTRIES = 1_000_000
_KEPT_ELEMENTS = 4_096
_MAX_DIMENSIONS = 8
_GET_AGAIN = "Get the file again from its source."

# struct code of each scalar value type, by its number in the file.
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

# Name, elements of a block and bytes of a block, by type number (ggml.h, enum ggml_type).
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("int8", 1, 1), 25: ("int16", 1, 2),
    26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("float64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("bfloat16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArrayLength:
    """Stands for an array too long, or of strings, to be kept: only its length is."""

    length: int


GGUFValue: TypeAlias = int | float | bool | str | tuple[int | float | bool, ...] | ArrayLength


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Metadata and tensors of a GGUF file."""

    metadata: Mapping[str, GGUFValue]
    tensors: tuple[TensorHeader, ...]

    def text(self, key: str) -> str | None:
        """Value of a text key."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """Value of a whole-number key; the largest one where it lists one per layer."""
        value = self.metadata.get(key)
        if isinstance(value, tuple):
            whole = [element for element in value if isinstance(element, int)]
            return max(whole, default=None)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def array_length(self, key: str) -> int | None:
        """Count the elements under an array key."""
        value = self.metadata.get(key)
        if isinstance(value, ArrayLength):
            return value.length
        return len(value) if isinstance(value, tuple) else None


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file and check the file's size against its tensors.

    Parameters
    ----------
    path
        The ``.gguf`` file.

    Raises
    ------
    MalformedModelError
        When the header is damaged, or the file is shorter than its tensors.
    """
    if not path.is_file():
        raise MalformedModelError(f"{path} is not a regular file.", hint=_GET_AGAIN)
    if path.stat().st_size < 24:
        raise MalformedModelError(
            f"{path} has {path.stat().st_size} bytes, too few for a GGUF header.", hint=_GET_AGAIN
        )
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _Walk(path, data).read()


class _Walk:
    """Reads one file from front to back; every step checks that it stays inside."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.limit = min(len(data), MAX_HEADER_BYTES)

    def fail(self, what: str) -> MalformedModelError:
        return MalformedModelError(f"{self.path}: {what}.", hint=_GET_AGAIN)

    def read(self) -> GGUFHeader:
        if self.data[:4] != b"GGUF":
            raise self.fail(f"it starts with {self.data[:4]!r}, not with GGUF")
        self.position = 4
        version = self.number("I")
        if version not in (2, 3):
            raise self.fail(
                f"GGUF version {version} is unknown; little-endian versions 2 and 3 are read"
            )
        tensor_count, value_count = self.number("Q"), self.number("Q")
        if max(tensor_count, value_count) > _MAX_ENTRIES:
            raise self.fail(f"it announces {tensor_count:,} tensors and {value_count:,} values")
        metadata: dict[str, GGUFValue] = {}
        for _ in range(value_count):
            key = self.string()
            metadata[key] = self.value(self.number("I"))
        tensors = [self.tensor() for _ in range(tensor_count)]
        header = GGUFHeader(metadata, tuple(tensor for tensor, _ in tensors))
        self.check_extents(header, tensors)
        return header

    def advance(self, size_bytes: int) -> int:
        start = self.position
        if size_bytes > self.limit - start:
            raise self.fail(
                f"its header is cut short or damaged: at byte {start:,} it wants "
                f"{size_bytes:,} bytes more, and {self.limit - start:,} are there"
            )
        self.position = start + size_bytes
        return start

    def number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self.data, self.advance(struct.calcsize(code)))[
            0
        ]
        return value

    def string(self) -> str:
        length = self.number("Q")
        start = self.advance(length)
        return self.data[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int) -> GGUFValue:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        if kind not in _SCALARS:
            raise self.fail(f"the value type {kind} at byte {self.position:,} is unknown")
        return self.number(_SCALARS[kind])

    def array(self, kind: int, length: int) -> GGUFValue:
        if kind == _STRING:
            for _ in range(length):
                self.advance(self.number("Q"))
            return ArrayLength(length)
        if kind not in _SCALARS:
            raise self.fail(f"an array holds the value type {kind}, which is not read")
        code = _SCALARS[kind]
        start = self.advance(length * struct.calcsize(code))
        if length > _KEPT_ELEMENTS:
            return ArrayLength(length)
        return tuple(struct.unpack_from(f"<{length}{code}", self.data, start))

    def tensor(self) -> tuple[TensorHeader, int]:
        name = self.string()
        dimension_count = self.number("I")
        if dimension_count > _MAX_DIMENSIONS:
            raise self.fail(f"tensor {name!r} has {dimension_count:,} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimension_count))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in GGML_TYPES:
            raise self.fail(f"tensor {name!r} has the unknown type {kind}")
        dtype, block, block_bytes = GGML_TYPES[kind]
        elements = 1
        for dimension in shape:
            elements *= dimension
        if elements % block:
            raise self.fail(f"tensor {name!r} has {elements:,} elements, not whole {dtype} blocks")
        # GGUF lists the fastest dimension first; torch lists it last.
        size_bytes = elements // block * block_bytes
        return TensorHeader(name, dtype, shape[::-1], elements, size_bytes), offset

    def check_extents(self, header: GGUFHeader, tensors: list[tuple[TensorHeader, int]]) -> None:
        alignment = header.integer("general.alignment") or 32
        if alignment & (alignment - 1):
            raise self.fail(f"its alignment of {alignment} is not a power of two")
        start = -(-self.position // alignment) * alignment
        end = max((start + offset + tensor.size_bytes for tensor, offset in tensors), default=start)
        if end > len(self.data) and tensors:
            raise self.fail(
                f"it is cut short: {end - len(self.data):,} of {end:,} bytes are missing"
            )
