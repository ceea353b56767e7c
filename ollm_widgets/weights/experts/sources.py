"""Where the experts of a layer come from: host memory, or the checkpoint on disk."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ollm_widgets.errors import Cancelled
from ollm_widgets.weights.quantized.expanding import expand

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.checkpoint.recipe import QuantizedKind, TensorRecipe
    from ollm_widgets.weights.model.structure import ExpertGroup
    from ollm_widgets.weights.reading.reader import PendingRead, WeightReader

# Of the first byte of every tensor in a shared buffer: what any dtype, copies and kernels need.
ALIGNMENT_BYTES = 512


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """One parameter of a group of experts, without its first dimension.

    Parameters
    ----------
    name
        Of the parameter in the experts' module: ``"gate_up_proj"``.
    dtype, row_shape
        Of a single expert's part.
    """

    name: str
    dtype: torch.dtype
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one expert's part."""
        return math.prod(self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ExpertForm:
    """What experts run as, and which of their parameters are expanded from what is held of them.

    A quantized parameter ``name`` is held as ``name_values`` and ``name_scales``, as its
    checkpoint has it; the others are held as they run.

    Parameters
    ----------
    made
        The parameters that an expert runs with.
    kinds
        The quantized ones.
    """

    made: tuple[ExpertTensor, ...]
    kinds: Mapping[str, QuantizedKind]

    @classmethod
    def of(cls, layout: LayerLayout, group: ExpertGroup) -> ExpertForm:
        """The form of a layer's experts, of which `layout` has the parameters as they run."""
        recipes = {slot.name: slot.recipe for slot in layout.slots}
        own = {name: recipes[f"{group.path}.{name}"] for name in group.parameters}
        made = (
            ExpertTensor(name, recipe.dtype, tuple(recipe.shape[1:]))
            for name, recipe in own.items()
        )
        kinds = {
            name: recipe.quantized.kind
            for name, recipe in own.items()
            if recipe.quantized is not None
        }
        return cls(tuple(made), kinds)

    def held_names(self, group: ExpertGroup) -> dict[str, str]:
        """Names of the tensors that are held, and the same relative to the layer."""
        names: list[str] = []
        for name in group.parameters:
            names += [f"{name}_values", f"{name}_scales"] if name in self.kinds else [name]
        return {name: f"{group.path}.{name}" for name in names}

    @property
    def expands(self) -> bool:
        """Whether anything is held otherwise than it runs."""
        return bool(self.kinds)

    def expand(
        self,
        held: Mapping[str, torch.Tensor],
        out: Mapping[str, torch.Tensor],
        chosen: torch.Tensor | None = None,
    ) -> None:
        """Expand rows of held tensors to rows of those that run, without waiting on CUDA.

        Parameters
        ----------
        held, out
            Name to ``[rows, ...]``, on the same device.
        chosen
            int64 ``[rows]``; rows where it is negative are left as they are.
        """
        for tensor in self.made:
            target, kind = out[tensor.name], self.kinds.get(tensor.name)
            if kind is not None:
                values, scales = held[f"{tensor.name}_values"], held[f"{tensor.name}_scales"]
                expand(kind, values, scales, target, chosen)
            elif chosen is None:
                target.copy_(held[tensor.name])
            else:
                shape = (-1, *(1,) * (target.dim() - 1))
                target.copy_(torch.where(chosen.view(shape) < 0, target, held[tensor.name]))


class ExpertSource(Protocol):
    """Gives single experts of one layer."""

    @property
    def experts(self) -> int:
        """How many there are."""

    @property
    def tensors(self) -> tuple[ExpertTensor, ...]:
        """What is held and moved of an expert."""

    @property
    def form(self) -> ExpertForm:
        """What an expert runs as."""

    def fetch(
        self,
        experts: Sequence[int],
        rows: Sequence[int],
        out: Mapping[str, torch.Tensor],
        cancel: threading.Event | None = None,
    ) -> None:
        """Write experts into rows of tensors ``[rows, *row_shape]`` in host memory, and wait."""


class HostExperts:
    """Experts that lie in host memory.

    Parameters
    ----------
    tensors
        Name to tensor ``[experts, ...]``, contiguous, on the CPU. Pinned ones are read by an
        accelerator without a trip to the CPU. They are looked at, not copied.
    form
        What the experts run as; None where it is the same.

    Raises
    ------
    ValueError
        When the tensors differ in their first dimension or are not contiguous.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], form: ExpertForm | None = None) -> None:
        counts = {tensor.shape[0] for tensor in tensors.values()}
        if len(counts) != 1 or not all(each.is_contiguous() for each in tensors.values()):
            shapes = {name: list(each.shape) for name, each in tensors.items()}
            raise ValueError(f"Experts need contiguous tensors of one first dimension: {shapes}.")
        self.stacked = dict(tensors)
        self.experts = counts.pop()
        self.tensors = tuple(
            ExpertTensor(name, each.dtype, tuple(each.shape[1:])) for name, each in tensors.items()
        )
        self.form = form or ExpertForm(self.tensors, {})

    @property
    def pinned(self) -> bool:
        """Whether every tensor lies in page-locked memory."""
        return all(each.is_pinned() for each in self.stacked.values())

    def fetch(
        self,
        experts: Sequence[int],
        rows: Sequence[int],
        out: Mapping[str, torch.Tensor],
        cancel: threading.Event | None = None,
    ) -> None:
        """Copy experts into rows of `out`."""
        for name, source in self.stacked.items():
            for expert, row in zip(experts, rows, strict=True):
                out[name][row].copy_(source[expert])


class DiskExperts:
    """Experts that are read from the checkpoint when they are wanted.

    Parameters
    ----------
    reader
        Reads rows of the stacked tensors.
    recipes
        Name to the recipe of the stacked tensor.
    form
        What the experts run as; None where it is the same.
    """

    def __init__(
        self,
        reader: WeightReader,
        recipes: Mapping[str, TensorRecipe],
        form: ExpertForm | None = None,
    ) -> None:
        self._reader = reader
        self._recipes = dict(recipes)
        self.experts = next(iter(self._recipes.values())).shape[0]
        self.tensors = tuple(
            ExpertTensor(name, recipe.dtype, tuple(recipe.shape[1:]))
            for name, recipe in self._recipes.items()
        )
        self.form = form or ExpertForm(self.tensors, {})

    def fetch(
        self,
        experts: Sequence[int],
        rows: Sequence[int],
        out: Mapping[str, torch.Tensor],
        cancel: threading.Event | None = None,
    ) -> None:
        """Read experts into rows of `out`.

        Raises
        ------
        WeightReadError, CheckpointChangedError, Cancelled
            From the reader; then nothing writes to `out` any more.
        """
        if cancel is not None and cancel.is_set():
            raise Cancelled("The read of the chosen experts was cancelled.")
        pending: list[PendingRead] = []
        try:
            for first, last in _runs(rows):
                for name, recipe in self._recipes.items():
                    place = out[name][rows[first] : rows[last - 1] + 1]
                    pending.append(self._reader.read_rows(recipe, experts[first:last], place))
            for read in pending:
                read.wait(cancel)
        except BaseException:
            for read in pending:
                read.cancel()
            raise


def _runs(rows: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Begin and end of the stretches of `rows` that ascend by one."""
    first = 0
    for position in range(1, len(rows) + 1):
        if position == len(rows) or rows[position] != rows[position - 1] + 1:
            yield first, position
            first = position


def aligned(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def stacked_bytes(tensors: Iterable[ExpertTensor], rows: int) -> int:
    """Bytes of a buffer that holds so many experts."""
    return sum(aligned(rows * tensor.row_bytes) for tensor in tensors)


def stacked_views(
    buffer: torch.Tensor, tensors: Iterable[ExpertTensor], rows: int
) -> dict[str, torch.Tensor]:
    """Tensors ``[rows, *row_shape]`` one after the other in a uint8 buffer, by name."""
    views: dict[str, torch.Tensor] = {}
    start = 0
    for tensor in tensors:
        size = rows * tensor.row_bytes
        flat = buffer[start : start + size].view(tensor.dtype)
        views[tensor.name] = flat.view(rows, *tensor.row_shape)
        start += aligned(size)
    return views
