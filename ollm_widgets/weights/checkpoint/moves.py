"""What a conversion of transformers moves where, found by running it on tensors without data.

Most conversions only place whole blocks (stack experts, join gate and up, cut a fused projection).
Instead of knowing them by name, transformers' own code runs on stand-ins that note which block of
which source each part of the result is; an operation that computes anything ends the trace.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch


class NotOnlyMoves(Exception):  # noqa: N818  (an outcome of the trace, caught by its callers)
    """The conversion does more than place blocks of its sources."""


class Block(NamedTuple):
    """A box of a tensor that is a strided view of one source.

    Parameters
    ----------
    source
        Which source.
    offset
        Element of the source where the box begins.
    strides
        In the source, in elements, one a dimension of the tensor.
    start, size
        Where the box lies in the tensor, and its extents.
    """

    source: int
    offset: int
    strides: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Elements that are contiguous both in a source and in the result."""

    source: int
    source_element: int
    target_element: int
    elements: int


class TracedTensor(torch.Tensor):
    """A tensor without data that knows of which blocks of which sources it is made."""

    blocks: tuple[Block, ...]

    @staticmethod
    def __new__(
        cls, shape: Sequence[int], dtype: torch.dtype, blocks: tuple[Block, ...]
    ) -> TracedTensor:
        """A stand-in of a shape and dtype."""
        make: Any = torch.Tensor._make_wrapper_subclass
        traced: TracedTensor = make(cls, tuple(shape), dtype=dtype, device="cpu")
        traced.blocks = blocks
        return traced

    @classmethod
    def of_source(cls, source: int, shape: Sequence[int], dtype: torch.dtype) -> TracedTensor:
        """The stand-in of a whole source."""
        size = tuple(shape)
        block = Block(source, 0, _row_major(size), (0,) * len(size), size)
        return cls(size, dtype, (block,) if math.prod(size) else ())

    # torch calls it with the operation first, whatever its stub says.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Follow an operation that moves; refuse any other."""
        move = _MOVES.get(str(func))
        if move is None:
            raise NotOnlyMoves(str(func))
        return move(*args, **(kwargs or {}))


def runs_of(traced: TracedTensor, at_most: int) -> tuple[Run, ...]:
    """The runs that make up a traced tensor, by their place in it; adjacent ones are joined.

    Raises
    ------
    NotOnlyMoves
        When there are more than `at_most`.
    """
    shape = tuple(traced.shape)
    steps = _row_major(shape)
    runs: list[Run] = []
    for block in traced.blocks:
        outer, inner = _contiguous_tail(block, shape)
        if len(runs) + math.prod(block.size[:outer]) > at_most:
            raise NotOnlyMoves
        first = sum(map(_times, block.start, steps))
        for index in itertools.product(*map(range, block.size[:outer])):
            # The shorter of each pair ends the sum: the dimensions within a run add nothing.
            source = block.offset + sum(map(_times, index, block.strides))
            runs.append(Run(block.source, source, first + sum(map(_times, index, steps)), inner))
    runs.sort(key=lambda run: run.target_element)
    return tuple(_joined(runs))


def _contiguous_tail(block: Block, shape: tuple[int, ...]) -> tuple[int, int]:
    """Dimensions outside a run of the block, and the elements of a run."""
    elements = 1
    for outer in range(len(shape), 0, -1):
        size = block.size[outer - 1]
        if size > 1 and block.strides[outer - 1] != elements:
            return outer, elements
        elements *= size
        if size != shape[outer - 1]:
            return outer - 1, elements
    return 0, elements


def _joined(runs: Iterable[Run]) -> Iterator[Run]:
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and last.source == run.source
            and last.source_element + last.elements == run.source_element
            and last.target_element + last.elements == run.target_element
        ):
            last = replace(last, elements=last.elements + run.elements)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _times(a: int, b: int) -> int:
    return a * b


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _same(tensor: TracedTensor, **layout: object) -> TracedTensor:
    return TracedTensor(tensor.shape, tensor.dtype, tensor.blocks)


def _view(tensor: TracedTensor, shape: Sequence[int]) -> TracedTensor:
    if tuple(shape) != tuple(tensor.shape):
        raise NotOnlyMoves
    return _same(tensor)


def _narrow(tensor: TracedTensor, dim: int, begin: int, end: int) -> TracedTensor:
    blocks = []
    for block in tensor.blocks:
        low = max(begin, block.start[dim])
        high = min(end, block.start[dim] + block.size[dim])
        if low < high:
            blocks.append(
                block._replace(
                    offset=block.offset + (low - block.start[dim]) * block.strides[dim],
                    start=_with(block.start, dim, low - begin),
                    size=_with(block.size, dim, high - low),
                )
            )
    return TracedTensor(_with(tuple(tensor.shape), dim, end - begin), tensor.dtype, tuple(blocks))


def _with(values: tuple[int, ...], dim: int, value: int) -> tuple[int, ...]:
    return (*values[:dim], value, *values[dim + 1 :])


def _slice(
    tensor: TracedTensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> TracedTensor:
    if step != 1:
        raise NotOnlyMoves
    dim %= tensor.dim()
    begin, stop, _ = slice(start, end).indices(tensor.shape[dim])
    return _narrow(tensor, dim, begin, max(begin, stop))


def _select(tensor: TracedTensor, dim: int, index: int) -> TracedTensor:
    dim %= tensor.dim()
    index %= tensor.shape[dim]
    return _squeeze(_narrow(tensor, dim, index, index + 1), dim)


def _split_evenly(tensor: TracedTensor, size: int, dim: int = 0) -> list[TracedTensor]:
    whole, rest = divmod(tensor.shape[dim], size)
    return _split(tensor, [size] * whole + [rest] * (rest > 0), dim)


def _split(tensor: TracedTensor, sizes: list[int], dim: int = 0) -> list[TracedTensor]:
    dim %= tensor.dim()
    ends = list(itertools.accumulate(sizes))
    return [_narrow(tensor, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> TracedTensor:
    parts = [_traced(tensor) for tensor in tensors]
    dim %= parts[0].dim()
    if len({part.dtype for part in parts}) > 1:
        raise NotOnlyMoves
    position = 0
    blocks: list[Block] = []
    for part in parts:
        blocks += (
            block._replace(start=_with(block.start, dim, block.start[dim] + position))
            for block in part.blocks
        )
        position += part.shape[dim]
    return TracedTensor(_with(tuple(parts[0].shape), dim, position), parts[0].dtype, tuple(blocks))


def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> TracedTensor:
    return _cat([_unsqueeze(_traced(tensor), dim) for tensor in tensors], dim)


def _traced(tensor: torch.Tensor) -> TracedTensor:
    if not isinstance(tensor, TracedTensor):
        raise NotOnlyMoves
    return tensor


def _unsqueeze(tensor: TracedTensor, dim: int) -> TracedTensor:
    dim %= tensor.dim() + 1

    def insert(values: tuple[int, ...], value: int) -> tuple[int, ...]:
        return (*values[:dim], value, *values[dim:])

    blocks = tuple(
        block._replace(
            strides=insert(block.strides, 0),
            start=insert(block.start, 0),
            size=insert(block.size, 1),
        )
        for block in tensor.blocks
    )
    return TracedTensor(insert(tuple(tensor.shape), 1), tensor.dtype, blocks)


def _squeeze_all(tensor: TracedTensor) -> TracedTensor:
    return _squeeze(tensor, *range(tensor.dim()))


def _squeeze(tensor: TracedTensor, *dims: int) -> TracedTensor:
    gone = {dim % tensor.dim() for dim in dims if tensor.shape[dim] == 1}
    return _taken(tensor, [dim for dim in range(tensor.dim()) if dim not in gone])


def _transpose(tensor: TracedTensor, first: int, second: int) -> TracedTensor:
    order = list(range(tensor.dim()))
    order[first], order[second] = order[second], order[first]
    return _taken(tensor, order)


def _taken(tensor: TracedTensor, dims: Sequence[int]) -> TracedTensor:
    def take(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values[dim] for dim in dims)

    blocks = tuple(
        block._replace(strides=take(block.strides), start=take(block.start), size=take(block.size))
        for block in tensor.blocks
    )
    return TracedTensor(take(tensor.shape), tensor.dtype, blocks)


_MOVES: Mapping[str, Callable[..., Any]] = {
    "aten.cat.default": _cat,
    "aten.stack.default": _stack,
    "aten.split.Tensor": _split_evenly,
    "aten.split_with_sizes.default": _split,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.unsqueeze.default": _unsqueeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.default": _squeeze_all,
    "aten.transpose.int": _transpose,
    "aten.view.default": _view,
    "aten.clone.default": _same,
    "aten.detach.default": _same,
    "aten.alias.default": _same,
}
