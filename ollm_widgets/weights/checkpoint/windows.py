"""Cutting a layer into windows of bounded size, so that it can pass through small buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ollm_widgets.weights.checkpoint.conversions import torch_dtype
from ollm_widgets.weights.checkpoint.layout import ALIGNMENT_BYTES, LayerLayout, TensorSlot
from ollm_widgets.weights.checkpoint.recipe import Piece

DEFAULT_WINDOW_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a layer: bytes ``[start_bytes, start_bytes + layout.size_bytes)`` of its buffer.

    Parameters
    ----------
    layout
        What is read into the window's own buffer.
    start_bytes
        Where that lies in the layer's buffer.
    """

    layout: LayerLayout
    start_bytes: int


def windows(layout: LayerLayout, window_bytes: int = DEFAULT_WINDOW_BYTES) -> Iterator[Window]:
    """Cut a layer; a tensor that transformers' operations make stays whole.

    Parameters
    ----------
    window_bytes
        The most bytes of a window of plain tensors.
    """
    pending: list[TensorSlot] = []
    for slot in layout.slots:
        if pending and slot.offset_bytes + slot.size_bytes > pending[0].offset_bytes + window_bytes:
            yield _of(pending)
            pending = []
        if slot.size_bytes <= window_bytes:
            pending.append(slot)
        else:
            yield from _cut(slot, window_bytes)
    if pending:
        yield _of(pending)


def _of(slots: list[TensorSlot]) -> Window:
    start = slots[0].offset_bytes
    moved = tuple(replace(slot, offset_bytes=slot.offset_bytes - start) for slot in slots)
    return Window(LayerLayout(moved, _aligned(moved[-1])), start)


def _cut(slot: TensorSlot, window_bytes: int) -> Iterator[Window]:
    """Cut a tensor at multiples of the window, in elements; each part is a tensor of its own."""
    recipe = slot.recipe
    if recipe.conversion is not None:
        yield _of([slot])
        return
    item = recipe.dtype.itemsize
    step = window_bytes // item
    for start in range(0, slot.size_bytes // item, step):
        end = min(start + step, slot.size_bytes // item)
        pieces = tuple(_inside(recipe.pieces, start, end))
        part = replace(recipe, shape=(end - start,), pieces=pieces)
        size = (end - start) * item
        whole = TensorSlot(part, slot.name, 0, size)
        yield Window(LayerLayout((whole,), _aligned(whole)), slot.offset_bytes + start * item)


def _inside(pieces: tuple[Piece, ...], start: int, end: int) -> Iterator[Piece]:
    for piece in pieces:
        item = torch_dtype(piece.span).itemsize
        first = max(piece.target_offset_elements, start)
        last = min(piece.target_offset_elements + piece.size_bytes // item, end)
        if first < last:
            skipped = first - piece.target_offset_elements
            yield replace(
                piece,
                source_offset_bytes=piece.source_offset_bytes + skipped * item,
                size_bytes=(last - first) * item,
                target_offset_elements=first - start,
            )


def _aligned(last: TensorSlot) -> int:
    end = last.offset_bytes + last.size_bytes
    return -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
