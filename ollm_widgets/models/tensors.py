"""Headers of safetensors files: read, bounded, and checked against the file; never the data."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from ollm_widgets.errors import MalformedModelError, UnsafeModelError
from ollm_widgets.models.config_file import read_json_object

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 100_000_000
_GET_AGAIN = "Get the file again from its source."

# Bits of an element and its name in torch, by the name in the file
# (https://docs.rs/safetensors, enum Dtype).
_DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (8, "bool"),
    "F4": (4, "float4_e2m1fn"),
    "F6_E2M3": (6, "float6_e2m3fn"),
    "F6_E3M2": (6, "float6_e3m2fn"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "F32": (32, "float32"),
    "C64": (64, "complex64"),
    "F64": (64, "float64"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor as its file announces it.

    Parameters
    ----------
    name, dtype, shape
        Name in the checkpoint, dtype (torch's name, or GGUF's for its own types), dimensions.
    elements
        Logical elements.
    size_bytes
        Bytes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    size_bytes: int


_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]


def read_safetensors_header(path: Path) -> tuple[TensorHeader, ...]:
    """Read the header of one safetensors file and check the file against it.

    Parameters
    ----------
    path
        The ``.safetensors`` file.

    Returns
    -------
    tuple of TensorHeader
        In the order of their data.

    Raises
    ------
    MalformedModelError
        When the header is damaged or the file is shorter or longer than it says; the message
        names the file and the bytes that are missing.
    """
    if not path.is_file():
        raise MalformedModelError(f"{path} is not a regular file.", hint=_GET_AGAIN)
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise MalformedModelError(
                f"{path} has {file_bytes} bytes, too few for a safetensors header.",
                hint=_GET_AGAIN,
            )
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > MAX_HEADER_BYTES:
            raise MalformedModelError(
                f"{path} announces a header of {header_bytes:,} bytes; at most "
                f"{MAX_HEADER_BYTES:,} are allowed.",
                hint="It is damaged or not a safetensors file. " + _GET_AGAIN,
            )
        if header_bytes + 8 > file_bytes:
            raise MalformedModelError(
                f"{path} is cut short inside its header: at least "
                f"{header_bytes + 8 - file_bytes:,} bytes are missing.",
                hint=_GET_AGAIN,
            )
        header = file.read(header_bytes)
    return _check_extents(path, _decode(path, header), file_bytes - 8 - header_bytes)


def _decode(path: Path, header: bytes) -> list[tuple[str, _Entry]]:
    try:
        raw_entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw_entries.pop("__metadata__", None)
        decoder = msgspec.json.Decoder(_Entry)
        return [(name, decoder.decode(raw)) for name, raw in raw_entries.items()]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedModelError(
            f"{path} has a damaged header: {error}.", hint=_GET_AGAIN
        ) from error


def _check_extents(
    path: Path, entries: list[tuple[str, _Entry]], data_bytes: int
) -> tuple[TensorHeader, ...]:
    headers: list[TensorHeader] = []
    position = 0
    for name, entry in sorted(entries, key=lambda pair: pair[1].data_offsets):
        begin, end = entry.data_offsets
        if entry.dtype not in _DTYPES:
            raise MalformedModelError(
                f"{path}: tensor {name!r} has the unknown dtype {entry.dtype!r}."
            )
        bits, dtype = _DTYPES[entry.dtype]
        elements = 1
        for dimension in entry.shape:
            elements *= dimension
        if begin != position or (end - begin) * 8 != elements * bits:
            raise MalformedModelError(
                f"{path}: tensor {name!r} of shape {entry.shape} in {entry.dtype} is said to lie "
                f"at bytes {begin:,} to {end:,}; it should start at {position:,} and take "
                f"{elements * bits // 8:,} bytes.",
                hint=_GET_AGAIN,
            )
        position = end
        headers.append(TensorHeader(name, dtype, tuple(entry.shape), elements, end - begin))
    if position > data_bytes:
        raise MalformedModelError(
            f"{path} is cut short: {position - data_bytes:,} of {position:,} bytes of tensors "
            "are missing.",
            hint=_GET_AGAIN,
        )
    if position < data_bytes:
        raise MalformedModelError(
            f"{path} has {data_bytes - position:,} bytes after its last tensor.", hint=_GET_AGAIN
        )
    return tuple(headers)


def read_shard_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read the safetensors index: the tensors that each shard should hold.

    Raises
    ------
    MalformedModelError
        When the index is no index.
    UnsafeModelError
        When it names a file outside the folder, or one that is not safetensors.
    """
    path = folder / INDEX_NAME
    weight_map = read_json_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedModelError(f"{path} has no weight_map.", hint=_GET_AGAIN)
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise MalformedModelError(f"{path}: tensor {tensor!r} is in {shard!r}, not in a file.")
        shards.setdefault(shard, []).append(tensor)
    for shard in shards:
        _refuse_outside(path, shard)
    return {shard: tuple(tensors) for shard, tensors in sorted(shards.items())}


def _refuse_outside(index: Path, shard: str) -> None:
    parts = PurePosixPath(shard).parts
    if not parts or shard.startswith("/") or ".." in parts or "\\" in shard or ":" in shard:
        raise UnsafeModelError(
            f"{index} names the shard {shard!r}, which lies outside the model's folder.",
            hint="Do not use this model; get it from a source you trust.",
        )
    if "\x00" in shard or not shard.endswith(".safetensors"):
        raise UnsafeModelError(
            f"{index} names the shard {shard!r}, which is not a safetensors file.",
            hint="Only safetensors shards are read.",
        )
