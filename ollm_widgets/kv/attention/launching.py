"""Launching the decode kernels: one query of each sequence against parts of its history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from types import ModuleType

    from ollm_widgets.kv.codecs.page import PageCodec, PageShape

EVERYTHING = 2**30  # tokens or pages: no bound
# Bytes of keys that a program reads at once; with the values and the stages ahead it must fit
# the shared memory of a multiprocessor.
_TILE_BYTES = 16 * 1024
_LARGEST_TILE = 128
_SMALLEST_TILE = 16
_SMALLEST_DOT = 16
_MERGED_AT_ONCE = 16
_WARPS = 4


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the kernels are launched.

    Parameters
    ----------
    programs
        Programs that a launch should have on each multiprocessor.
    stages
        Tiles in flight in a program.
    warps
        Of a program.
    cold_splits
        Programs that share a head's part of some cold pages.
    """

    programs: int = 2
    stages: int = 3
    warps: int = _WARPS
    cold_splits: int = 32


@dataclass(frozen=True, slots=True)
class ColdPart:
    """Cold pages that a launch reads.

    Parameters
    ----------
    table
        int64, on the device: addresses that the device can read.
    table_offset
        Entry of the first page.
    first_page, last_page
        Which pages; those from the count on that the device knows are left out.
    """

    table: torch.Tensor
    table_offset: int
    first_page: int
    last_page: int = EVERYTHING


@cache
def kernels() -> ModuleType | None:
    """The module of the kernels; None without Triton."""
    try:
        from ollm_widgets.kv.attention import kernels as decode_kernels
    except ImportError:
        return None
    return decode_kernels


class SplitDecode:
    """Attention of one query of each sequence, put together from parts of its history.

    Parameters
    ----------
    query
        ``[batch, query heads, 1, key width]``, the last dimension contiguous.
    heads, value_width
        Of keys and values.
    position
        int64 ``[1]`` on the device: the last token that the query sees.
    cold_pages
        int64 ``[1]`` on the device: whole pages that are no longer hot; None where there are none.
    scale
        Of the scores.
    mask
        bool ``[batch or 1, 1, 1, tokens]``: what a query sees, beyond causality; None = all.
    window
        Tokens that a query looks back on, itself included; None = all.
    cold_parts
        How often `cold` will be called.
    """

    def __init__(
        self,
        query: torch.Tensor,
        heads: int,
        value_width: int,
        position: torch.Tensor,
        *,
        cold_pages: torch.Tensor | None,
        scale: float,
        mask: torch.Tensor | None = None,
        window: int | None = None,
        cold_parts: int = 0,
        tuning: Tuning | None = None,
    ) -> None:
        tuning = tuning or Tuning()
        batch, query_heads, _, key_width = query.shape
        self._query = query
        self._position = position
        self._cold_pages = cold_pages
        self._tuning = tuning
        self._heads = heads
        self._width = key_width, value_width
        self._scale = scale * math.log2(math.e)
        self._window = EVERYTHING if window is None else window
        self._mask = None if mask is None else mask.view(torch.uint8)
        self._mask_batch = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
        self._hot_splits = _hot_splits(query.device, batch * heads, tuning.programs)
        self._splits = self._hot_splits + cold_parts * tuning.cold_splits
        self._taken = 0
        self._rows = batch * query_heads
        options: dict[str, Any] = {"dtype": torch.float32, "device": query.device}
        self._out = torch.empty(self._rows, self._splits, value_width, **options)
        self._stats = torch.empty(self._rows, self._splits, 2, **options)
        self._precision = "ieee" if query.dtype is torch.float32 else "tf32"

    def hot(self, keys: torch.Tensor, values: torch.Tensor, page: int | None = None) -> None:
        """Attend to the hot tokens.

        Parameters
        ----------
        keys, values
            ``[batch, heads, ring, width]``: token t is in slot ``t % ring``, and where pages are
            cold `ring` is a multiple of `page`.
        page
            Tokens of a page; None where all tokens are hot and ``ring`` holds them all.
        """
        tile = _tile(self._query, max(self._width))
        if page is not None:
            tile = min(tile, page)
        cold = self._cold_pages if page is not None else None
        needed_kernels().hot_splits[self._grid(self._hot_splits)](
            self._query,
            keys,
            values,
            self._position,
            self._position if cold is None else cold,
            self._position if self._mask is None else self._mask,
            self._out,
            self._stats,
            self._scale,
            self._query.stride(0),
            self._query.stride(1),
            keys.stride(0),
            keys.stride(1),
            values.stride(0),
            values.stride(1),
            self._mask_batch,
            keys.shape[2],
            self._window,
            self._take(self._hot_splits),
            self._splits,
            KEY_LANES=_lanes(self._width[0]),
            VALUE_LANES=_lanes(self._width[1]),
            PAGE=page or 1,
            TILE=tile,
            SPLITS=self._hot_splits,
            PAGED=cold is not None,
            **self._constants(),
        )

    def cold(self, part: ColdPart, shape: PageShape, codec: PageCodec) -> None:
        """Attend to cold pages.

        Parameters
        ----------
        part
            Which, and where.
        shape, codec
            What a page holds, and how.
        """
        from ollm_widgets.kv.codecs.quantized import QuantizedCodec

        splits = self._tuning.cold_splits
        places = (part.table_offset, part.first_page, part.last_page, self._take(splits))
        common = (
            self._query,
            part.table,
            self._position,
            self._cold_pages,
            self._position if self._mask is None else self._mask,
            self._out,
            self._stats,
            self._scale,
            self._query.stride(0),
            self._query.stride(1),
            self._mask_batch,
            self._window,
        )
        tile = min(_tile(self._query, max(self._width)), shape.tokens)
        options = {**self._constants(), "PAGE": shape.tokens, "SPLITS": splits}
        if not isinstance(codec, QuantizedCodec):
            needed_kernels().cold_splits[self._grid(splits)](
                *common,
                shape.key_bytes // shape.dtype.itemsize,
                *places,
                self._splits,
                KEY_LANES=_lanes(self._width[0]),
                VALUE_LANES=_lanes(self._width[1]),
                TILE=tile,
                **options,
            )
            return
        layout, packed = codec.layout(shape), codec.bits == 4
        least = 2 * _SMALLEST_DOT if packed else _SMALLEST_DOT
        lanes = [_lanes(width, least) // (1 + packed) for width in self._width]
        needed_kernels().quantized_splits[self._grid(splits)](
            *common,
            *places,
            self._splits,
            KEY_SCALES=layout.key_scales.offset,
            KEY_ZEROS=layout.key_zeros.offset,
            VALUE_CODES=layout.value_codes.offset,
            VALUE_SCALES=layout.value_scales.offset,
            VALUE_ZEROS=layout.value_zeros.offset,
            KEY_GROUP=codec.key_group_tokens,
            KEY_GROUPS=layout.key_scales.shape[2],
            VALUE_GROUP=codec.value_group_channels,
            VALUE_GROUPS=layout.value_scales.shape[3],
            PACKED=packed,
            KEY_LANES=lanes[0],
            VALUE_LANES=lanes[1],
            TILE=math.gcd(tile, codec.key_group_tokens),
            **options,
        )

    def merged(self) -> torch.Tensor:
        """Put the parts together: ``[batch, 1, query heads, value width]``."""
        batch, query_heads = self._query.shape[:2]
        value_width = self._width[1]
        out = self._query.new_empty(batch, 1, query_heads, value_width)
        needed_kernels().merge_splits[(self._rows,)](
            self._out,
            self._stats,
            out,
            self._splits,
            VALUE=value_width,
            VALUE_LANES=_lanes(value_width),
            AT_ONCE=_MERGED_AT_ONCE,
            num_warps=_WARPS,
        )
        return out

    def _grid(self, splits: int) -> tuple[int, int]:
        return self._query.shape[0] * self._heads, splits

    def _take(self, splits: int) -> int:
        first, self._taken = self._taken, self._taken + splits
        return first

    def _constants(self) -> dict[str, Any]:
        group = self._query.shape[1] // self._heads
        return {
            "HEADS": self._heads,
            "GROUP": group,
            "ROWS": max(_SMALLEST_DOT, power_of_two(group)),
            "KEY": self._width[0],
            "VALUE": self._width[1],
            "STAGES": self._tuning.stages,
            "MASKED": self._mask is not None,
            "PRECISION": self._precision,
            "num_warps": self._tuning.warps,
        }


def needed_kernels() -> Any:
    """The module of the kernels.

    Raises
    ------
    RuntimeError
        Without Triton.
    """
    found = kernels()
    if found is None:
        raise RuntimeError("Triton is not installed")
    return found


def _tile(query: torch.Tensor, width: int) -> int:
    tokens = _TILE_BYTES // (_lanes(width) * query.element_size())
    return max(_SMALLEST_TILE, min(_LARGEST_TILE, tokens))


def _lanes(width: int, least: int = _SMALLEST_DOT) -> int:
    return max(least, power_of_two(width))


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


@cache
def _hot_splits(device: torch.device, heads: int, programs: int) -> int:
    processors = 4
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(64, processors * programs // heads))
