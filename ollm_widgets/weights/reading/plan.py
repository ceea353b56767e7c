"""A read as work items: spans of a file of a few MiB, and where their bytes go.

What is contiguous in a file is read at once, wherever the bytes land, so that many small tensors
take few system calls; what is large is cut, so that many threads share it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ollm_widgets.weights.checkpoint.conversions import Conversion, torch_dtype
from ollm_widgets.weights.checkpoint.index import TensorSpan
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe

ITEM_BYTES = 8 << 20
# Linux takes at most 1024 parts in one call.
_MOST_SEGMENTS = 512


@dataclass(frozen=True, slots=True)
class Segment:
    """Contiguous bytes of a tensor in a file, and where they land.

    Parameters
    ----------
    span
        The tensor, for messages.
    offset_bytes, size_bytes
        In the file.
    target_bytes
        Where they begin in the buffer; of cast bytes, where the result begins.
    target
        Which buffer: -1 is the caller's, others are the scratch of that conversion.
    """

    span: TensorSpan
    offset_bytes: int
    size_bytes: int
    target_bytes: int
    target: int


@dataclass(frozen=True, slots=True)
class Cast:
    """A change of dtype on the way from the file to the buffer."""

    source: torch.dtype
    target: torch.dtype


@dataclass(frozen=True, slots=True)
class Item:
    """What one thread reads in one go.

    Parameters
    ----------
    path
        File.
    offset_bytes, size_bytes
        In the file.
    segments
        That make it up, without gaps, in the file's order; one if there is a cast.
    cast
        Of the segment, or ``None``.
    conversions
        Into whose scratch the segments go.
    """

    path: Path
    offset_bytes: int
    size_bytes: int
    segments: tuple[Segment, ...]
    cast: Cast | None
    conversions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a tensor that a conversion makes goes.

    Parameters
    ----------
    name
        Full name of the tensor in the model.
    dtype, shape
        Of what is written.
    target_bytes
        Where it begins in the buffer.
    rows
        Those of dim 0 that are wanted; ``None`` is the whole tensor.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    target_bytes: int
    rows: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class PlannedConversion:
    """A conversion, what it gives to this read, and how its sources lie in its scratch.

    Parameters
    ----------
    conversion
        Any of those that share the job.
    landings
        What is kept of its results.
    scratch_bytes
        Room for all sources.
    offsets_bytes
        Where each source begins in it.
    items
        How many items read into it.
    """

    conversion: Conversion
    landings: tuple[Landing, ...]
    scratch_bytes: int
    offsets_bytes: tuple[int, ...]
    items: int


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """All of a read: items in the order of the files, and conversions to run after them."""

    items: tuple[Item, ...]
    conversions: tuple[PlannedConversion, ...]
    paths: tuple[Path, ...]


def plan_layout(layout: LayerLayout) -> ReadPlan:
    """Plan the read of a whole layer into its buffer."""
    plan = _Planner()
    for slot in layout.slots:
        recipe = slot.recipe
        plan.add(recipe, _whole_pieces(recipe), slot.offset_bytes, None)
    return plan.finish()


def plan_rows(recipe: TensorRecipe, rows: Sequence[int]) -> ReadPlan:
    """Plan the read of some rows of a tensor, one after the other into a buffer.

    Raises
    ------
    IndexError
        When a row does not exist.
    """
    if not recipe.shape or not all(0 <= row < recipe.shape[0] for row in rows):
        raise IndexError(f"{recipe.name} is {list(recipe.shape)}; rows {list(rows)} were asked.")
    plan = _Planner()
    plan.add(recipe, _row_pieces(recipe, rows), 0, tuple(rows))
    return plan.finish()


# A run of a checkpoint tensor and the byte of the module tensor (or of the rows) where it lands.
_Placed = tuple[TensorSpan, int, int, int]


def _whole_pieces(recipe: TensorRecipe) -> Iterator[_Placed]:
    for piece in recipe.pieces:
        target = piece.target_offset_elements * recipe.dtype.itemsize
        yield piece.span, piece.source_offset_bytes, piece.size_bytes, target


def _row_pieces(recipe: TensorRecipe, rows: Sequence[int]) -> Iterator[_Placed]:
    row_elements = math.prod(recipe.shape[1:])
    starts = [piece.target_offset_elements for piece in recipe.pieces]
    for number, row in enumerate(rows):
        begin, end = row * row_elements, (row + 1) * row_elements
        for piece in recipe.pieces[max(bisect.bisect_right(starts, begin) - 1, 0) :]:
            if piece.target_offset_elements >= end:
                break
            itemsize = torch_dtype(piece.span).itemsize
            low = max(begin, piece.target_offset_elements)
            high = min(end, piece.target_offset_elements + piece.size_bytes // itemsize)
            if low < high:
                skipped = (low - piece.target_offset_elements) * itemsize
                target = (number * row_elements + low - begin) * recipe.dtype.itemsize
                size = (high - low) * itemsize
                yield piece.span, piece.source_offset_bytes + skipped, size, target


class _Planner:
    """Collects what is to be read, then sorts and cuts it."""

    def __init__(self) -> None:
        self._plain: list[Segment] = []
        self._cast: list[tuple[Segment, Cast]] = []
        self._conversions: dict[int, tuple[Conversion, list[Landing]]] = {}

    def add(
        self,
        recipe: TensorRecipe,
        pieces: Iterable[_Placed],
        begin_bytes: int,
        rows: tuple[int, ...] | None,
    ) -> None:
        """Add a tensor, or rows of it, that begins at a byte of the buffer."""
        if recipe.conversion is not None:
            key = id(recipe.conversion.job)
            _, landings = self._conversions.setdefault(key, (recipe.conversion, []))
            landings.append(Landing(recipe.name, recipe.dtype, recipe.shape, begin_bytes, rows))
            return
        for span, offset, size, target in pieces:
            segment = Segment(span, span.offset_bytes + offset, size, begin_bytes + target, -1)
            stored = torch_dtype(span)
            if stored == recipe.dtype:
                self._plain.append(segment)
            else:
                self._cast.append((segment, Cast(stored, recipe.dtype)))

    def finish(self) -> ReadPlan:
        """The plan of all that was added."""
        scratches = [_scratch_of(conversion) for conversion, _ in self._conversions.values()]
        for number, (conversion, _) in enumerate(self._conversions.values()):
            offsets, _ = scratches[number]
            self._plain += (
                Segment(span, span.offset_bytes, span.size_bytes, offset, number)
                for span, offset in zip(conversion.spans, offsets, strict=True)
            )
        items = [*_cut(self._plain), *_cut_casts(self._cast)]
        items.sort(key=lambda item: (str(item.path), item.offset_bytes))
        conversions = tuple(
            PlannedConversion(
                conversion,
                tuple(landings),
                scratches[number][1],
                scratches[number][0],
                sum(number in item.conversions for item in items),
            )
            for number, (conversion, landings) in enumerate(self._conversions.values())
        )
        return ReadPlan(tuple(items), conversions, tuple({item.path: None for item in items}))


def _scratch_of(conversion: Conversion) -> tuple[tuple[int, ...], int]:
    offsets: list[int] = []
    position = 0
    for span in conversion.spans:
        offsets.append(position)
        position += -(-span.size_bytes // 64) * 64
    return tuple(offsets), position


def _cut(segments: list[Segment]) -> Iterator[Item]:
    """Join what follows each other in a file; cut what is longer than an item."""
    segments = sorted(segments, key=lambda s: (str(s.span.path), s.offset_bytes, s.target_bytes))
    group: list[Segment] = []
    end, room = -1, 0
    for whole in segments:
        segment, rest = whole, whole.size_bytes
        while rest:
            follows = (
                bool(group)
                and group[-1].span.path == segment.span.path
                and segment.offset_bytes + segment.size_bytes - rest == end
                and room > 0
                and len(group) < _MOST_SEGMENTS
            )
            if not follows:
                if group:
                    yield _item(group, None)
                group, room = [], ITEM_BYTES
            done = segment.size_bytes - rest
            count = min(rest, room)
            group.append(
                Segment(
                    segment.span,
                    segment.offset_bytes + done,
                    count,
                    segment.target_bytes + done,
                    segment.target,
                )
            )
            end = segment.offset_bytes + done + count
            rest -= count
            room -= count
    if group:
        yield _item(group, None)


def _cut_casts(segments: Iterable[tuple[Segment, Cast]]) -> Iterator[Item]:
    for segment, cast in segments:
        elements = segment.size_bytes // cast.source.itemsize
        step = ITEM_BYTES // max(cast.source.itemsize, cast.target.itemsize)
        for first in range(0, elements, step):
            count = min(step, elements - first)
            part = Segment(
                segment.span,
                segment.offset_bytes + first * cast.source.itemsize,
                count * cast.source.itemsize,
                segment.target_bytes + first * cast.target.itemsize,
                segment.target,
            )
            yield _item([part], cast)


def _item(segments: Sequence[Segment], cast: Cast | None) -> Item:
    first, last = segments[0], segments[-1]
    return Item(
        first.span.path,
        first.offset_bytes,
        last.offset_bytes + last.size_bytes - first.offset_bytes,
        tuple(segments),
        cast,
        frozenset(segment.target for segment in segments if segment.target >= 0),
    )
