"""Headers of safetensors files: read, bounded, and checked against the file; never the data."""

from __future__ import annotations

import json
import reprlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from ollm_widgets.errors import MalformedModelError, UnsafeModelError
from ollm_widgets.models.config_file import JSONObject, read_json_object

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 100_000_000
_MOST_ELEMENTS = 2**63
_FIELDS = (b'"dtype":', b'"shape":', b'"data_offsets":')
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


def dtype_bits(name: str) -> int | None:
    """Bits of an element by the dtype's name in the file (``BF16``); ``None`` when unknown."""
    known = _DTYPES.get(name)
    return None if known is None else known[0]


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
    with path.open("rb") as file:
        return parse_safetensors_header(str(path), file.read, path.stat().st_size)


def parse_safetensors_header(
    source: str,
    read: Callable[[int], bytes],
    file_bytes: int,
    limit_bytes: int = MAX_HEADER_BYTES,
) -> tuple[TensorHeader, ...]:
    """Read the header of a safetensors file from a stream of its first bytes.

    Parameters
    ----------
    source
        Names the file in messages.
    read
        Gives the next bytes of the file, at most as many as asked.
    file_bytes
        Size of the whole file.
    limit_bytes
        Largest header that is read at all.

    Raises
    ------
    MalformedModelError
        See `read_safetensors_header`.
    """
    prefix = read(8)
    if len(prefix) < 8:
        raise MalformedModelError(
            f"{source} has {file_bytes} bytes, too few for a safetensors header.",
            hint=_GET_AGAIN,
        )
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > limit_bytes:
        raise MalformedModelError(
            f"{source} announces a header of {header_bytes:,} bytes; at most "
            f"{limit_bytes:,} are allowed.",
            hint="It is damaged or not a safetensors file. " + _GET_AGAIN,
        )
    if header_bytes + 8 > file_bytes:
        raise MalformedModelError(
            f"{source} is cut short inside its header: at least "
            f"{header_bytes + 8 - file_bytes:,} bytes are missing.",
            hint=_GET_AGAIN,
        )
    header = read(header_bytes)
    return _check_extents(source, _decode(source, header), file_bytes - 8 - header_bytes)


def _decode(path: str, header: bytes) -> list[tuple[str, _Entry]]:
    try:
        raw_entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if not _is_surely_unique(header, raw_entries):
            json.loads(header, object_pairs_hook=_refuse_twice)
        metadata = raw_entries.pop("__metadata__", None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str] | None)
        decoder = msgspec.json.Decoder(_Entry)
        return [(name, decoder.decode(raw)) for name, raw in raw_entries.items()]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedModelError(
            f"{path} has a damaged header: {error}.", hint=_GET_AGAIN
        ) from error


def _is_surely_unique(header: bytes, entries: Mapping[str, msgspec.Raw]) -> bool:
    """Whether no key occurs twice, told from lengths; files as safetensors writes them pass."""
    tensors = len(entries) - ("__metadata__" in entries)
    if any(header.count(field) != tensors for field in _FIELDS):
        return False
    inside = sum(len(name.encode()) + 3 + len(bytes(raw)) for name, raw in entries.items())
    return len(header.rstrip(b" ")) == 2 + inside + max(len(entries) - 1, 0)


def _refuse_twice(pairs: list[tuple[str, object]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        raise ValueError("a key occurs twice")


def _check_extents(
    path: str, entries: list[tuple[str, _Entry]], data_bytes: int
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
        elements = _count_elements(path, name, entry.shape)
        if begin != position or (end - begin) * 8 != elements * bits:
            raise MalformedModelError(
                f"{path}: tensor {name!r} of shape {reprlib.repr(entry.shape)} in {entry.dtype} is "
                f"said to lie at bytes {begin:,} to {end:,}; it should start at {position:,} and "
                f"take {elements * bits // 8:,} bytes.",
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


def _count_elements(path: str, name: str, shape: list[int]) -> int:
    elements = 1
    for dimension in shape:
        elements *= dimension
        if max(dimension, elements) > _MOST_ELEMENTS:
            raise MalformedModelError(
                f"{path}: tensor {name!r} is said to have more than 2^63 elements.",
                hint=_GET_AGAIN,
            )
    return elements


def read_shard_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read a folder's safetensors index: the tensors that each shard should hold.

    Raises
    ------
    MalformedModelError
        When the index is no index.
    UnsafeModelError
        When it names a file outside the folder, or one that is not safetensors.
    """
    path = folder / INDEX_NAME
    return shards_of_index(str(path), read_json_object(path, MAX_INDEX_BYTES))


def shards_of_index(source: str, index: JSONObject) -> dict[str, tuple[str, ...]]:
    """Sort the tensors of an index by shard; `source` names the index in messages.

    Raises
    ------
    MalformedModelError, UnsafeModelError
        See `read_shard_names`.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedModelError(f"{source} has no weight_map.", hint=_GET_AGAIN)
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise MalformedModelError(
                f"{source}: tensor {tensor!r} is in {shard!r}, not in a file."
            )
        shards.setdefault(shard, []).append(tensor)
    for shard in shards:
        _refuse_outside(source, shard)
    return {shard: tuple(tensors) for shard, tensors in sorted(shards.items())}


def _refuse_outside(index: str, shard: str) -> None:
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
