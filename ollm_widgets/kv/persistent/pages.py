"""One record: the pages of a group of layers for one block of tokens, behind a header.

==========================  ================================================================
bytes                       what
==========================  ================================================================
0 to 8                      ``oKVpage1``
8 to 40                     blake2b-32 of block hash, record name, first token, codec
40 to 64                    zeros
from 64, layer by layer     its page as the codec encodes it, zeros up to a multiple of 64
==========================  ================================================================

The header says whose record it is, so that no error of an index can put one in another's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import torch

from ollm_widgets.kv.codecs import PageCodec, PageShape
from ollm_widgets.kv.contents import read_tokens
from ollm_widgets.kv.persistent.kinds import LayerPages, PageGroup

if TYPE_CHECKING:
    from transformers import Cache

HEADER_BYTES = 64
_MAGIC = b"oKVpage1"
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where the page of a layer is in a record."""

    pages: LayerPages
    shape: PageShape
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """What a record holds and where.

    Parameters
    ----------
    tokens
        Of each page.
    places
        Layer by layer.
    size
        Bytes of the whole record.
    """

    tokens: int
    places: tuple[PagePlace, ...]
    size: int


def plan_record(group: PageGroup, tokens: int, codec: PageCodec) -> RecordPlan:
    """Lay out the record of a group for a block of which it keeps so many tokens."""
    places: list[PagePlace] = []
    offset = HEADER_BYTES
    for pages in group.layers:
        dtype = getattr(torch, pages.dtype)
        shape = PageShape(1, pages.heads, tokens, pages.key_width, pages.value_width, dtype)
        size = codec.encoded_bytes(shape)
        places.append(PagePlace(pages, shape, offset, size))
        offset += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return RecordPlan(tokens, tuple(places), offset)


def header_of(block_hash: bytes, name: str, first: int, codec_id: str) -> bytes:
    """The first bytes of a record."""
    named = block_hash + f"\n{name}\n{first}\n{codec_id}".encode()
    return (_MAGIC + blake2b(named, digest_size=32).digest()).ljust(HEADER_BYTES, b"\0")


def encode_records(
    cache: Cache, plan: RecordPlan, codec: PageCodec, start: int, out: torch.Tensor
) -> None:
    """Write the pages of consecutive records; their headers are left as they are.

    Parameters
    ----------
    cache
        What is read.
    plan
        Of each of them.
    start
        Their first token.
    out
        ``uint8 [records, plan.size]``, on any device.
    """
    records = out.shape[0]
    stop = start + records * plan.tokens
    for place in plan.places:
        keys, values = read_tokens(cache, place.pages.layer, start, stop)
        codec.encode(
            _by_record(keys, plan.tokens),
            _by_record(values, plan.tokens),
            out[:, place.offset : place.offset + place.size],
        )


def decode_records(
    data: torch.Tensor,
    plan: RecordPlan,
    codec: PageCodec,
    outs: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    *,
    skip: int = 0,
) -> None:
    """Write the keys and values of consecutive records.

    Parameters
    ----------
    data
        ``uint8 [records, plan.size]``.
    plan
        Of each of them.
    outs
        By layer, keys and values ``[1, heads, tokens, width]`` of the tokens from the first
        record's `skip`-th on. They may end before the last record does.
    skip
        Tokens of the first record that are not wanted.
    """
    records = data.shape[0]
    whole: dict[PageShape, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}
    for place in plan.places:
        keys_out, values_out = outs[place.pages.layer]
        pages = data[:, place.offset : place.offset + place.size]
        wanted = keys_out.shape[2]
        if wanted == records * plan.tokens:
            own = _by_record(keys_out, plan.tokens), _by_record(values_out, plan.tokens)
            whole.setdefault(place.shape, []).append((pages, *own))
            continue
        shape = place.shape
        keys = keys_out.new_empty((records, *shape.keys))
        values = values_out.new_empty((records, *shape.values))
        codec.decode(pages, shape, keys, values)
        keys_out.copy_(_in_a_row(keys)[:, :, skip : skip + wanted])
        values_out.copy_(_in_a_row(values)[:, :, skip : skip + wanted])
    for shape, layers in whole.items():
        encoded, layers_keys, layers_values = zip(*layers, strict=True)
        codec.decode_layers(encoded, shape, layers_keys, layers_values)


def _by_record(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """``[1, heads, records * tokens, width]`` as ``[records, 1, heads, tokens, width]``."""
    records = states.unflatten(2, (-1, tokens))  # type: ignore[no-untyped-call]
    return cast("torch.Tensor", records.movedim(2, 0))


def _in_a_row(pages: torch.Tensor) -> torch.Tensor:
    """``[records, 1, heads, tokens, width]`` as ``[1, heads, records * tokens, width]``."""
    return pages.movedim(0, 2).flatten(2, 3)
