"""Which stored tensors a module tensor can be expanded from, piece by piece as it is needed.

transformers expands a quantized tensor first and then places what came out (stacks experts, joins
gate and up). Where its values and its scales can be placed alike before they are expanded, the
result has the same bits. That is found by running transformers' own conversion twice on stand-ins
without data: once it lets the values through unexpanded, and once the scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.weights.checkpoint.conversions import ConversionJob, torch_dtype
from ollm_widgets.weights.checkpoint.moves import Run, TracedTensor, runs_of
from ollm_widgets.weights.checkpoint.recipe import Piece, Quantized, QuantizedKind, TensorRecipe
from ollm_widgets.weights.quantized.expanding import expand

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.conversions import Source

_OPERATIONS: Mapping[str, QuantizedKind] = {"Fp8Dequantize": "fp8", "Mxfp4Dequantize": "mxfp4"}
# What scales may be; and values, which transformers 5.17 makes floats first: each of these has all
# that 8 bits can say.
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_MOST_TILES = 16_384
# A scale and its block: of different sizes, so that none is taken for the other.
_SAMPLE_BLOCK = (2, 64)


class QuantizedForms:
    """Finds what quantized tensors can be expanded from.

    Whether transformers of this version makes the same bits is tried on a sample, once for each
    kind, its scales and its result.
    """

    def __init__(self) -> None:
        self._agrees: dict[tuple[object, ...], bool] = {}

    def of(self, recipe: TensorRecipe, dtype: torch.dtype) -> Quantized | None:
        """Return what a tensor can be expanded from; None for one that is not quantized.

        None too where its values and scales cannot be placed before they are expanded, or in a
        format that is expanded only by transformers (other dtypes, fp4 in bytes).

        Parameters
        ----------
        recipe
            The tensor as transformers' conversion makes it.
        dtype
            To which it is cast then.
        """
        if recipe.conversion is None:
            return None
        job = recipe.conversion.job
        operation = job.converter.operations[0]
        kind = _OPERATIONS.get(type(operation).__name__)
        try:
            found = None
            if kind == "fp8":
                found = _fp8(recipe, job)
            elif kind == "mxfp4":
                found = _mxfp4(recipe, job)
            if found is None:
                return None
            key = (type(operation), found.scales.dtype, recipe.dtype, dtype)
            if key not in self._agrees:
                self._agrees[key] = _agrees(found, recipe, dtype, job, operation)
        except Exception:
            # Whatever keeps it from being traced, transformers' conversion makes the tensor.
            return None
        return found if self._agrees[key] else None


def only_transformers_expands(recipe: TensorRecipe) -> bool:
    """Whether a quantized tensor is expanded when it is loaded, and takes all its bytes then."""
    if recipe.conversion is None or recipe.quantized is not None:
        return False
    operations = recipe.conversion.job.converter.operations
    return type(operations[0]).__name__ in _OPERATIONS


def _fp8(recipe: TensorRecipe, job: ConversionJob) -> Quantized | None:
    pairs: list[tuple[int, int]] = []

    def let_values(values: TracedTensor, scales: TracedTensor, *_: object, **__: object) -> object:
        pairs.append((values.blocks[0].source, scales.blocks[0].source))
        return values

    def let_scales(values: TracedTensor, scales: TracedTensor, *_: object, **__: object) -> object:
        # One scale for a whole tensor may be stored without dimensions.
        while scales.dim() < 2:
            scales = scales.unsqueeze(0)  # type: ignore[assignment]
        return scales

    values = _traced(recipe, job, let_values)
    scales = _traced(recipe, job, let_scales)
    stored = {torch_dtype(job.sources[first].span) for first, _ in pairs}
    if stored != {torch.float8_e4m3fn} or values.dtype not in (*stored, *_FLOATS):
        return None
    read = {torch_dtype(job.sources[second].span) for _, second in pairs}
    if read != {scales.dtype} or scales.dtype not in _FLOATS:
        return None
    if tuple(values.shape) != recipe.shape or len(scales.shape) != len(recipe.shape):
        return None
    of_values, of_scales = _runs_by_source(values), _runs_by_source(scales)
    if not of_values or of_values.keys() != {first for first, _ in pairs}:
        return None
    block = math.prod(recipe.shape) // math.prod(scales.shape)
    for first, second in pairs:
        mine, its = of_values[first], of_scales[second]
        shape, grid = job.sources[first].span.shape, job.sources[second].span.shape
        alike = (
            mine.elements == its.elements * block
            and mine.source_element == its.source_element * block
            and mine.target_element == its.target_element * block
            and shape[-1] == recipe.shape[-1]
            and (grid[-1] if len(grid) > 1 else 1) == scales.shape[-1]
            and math.prod(shape) == math.prod(grid) * block
        )
        if not alike or shape[-1] % scales.shape[-1]:
            return None
    return Quantized(
        "fp8",
        _placed(f"{recipe.name}_values", torch.float8_e4m3fn, values, of_values, job),
        _placed(f"{recipe.name}_scales", scales.dtype, scales, of_scales, job),
    )


def _traced(
    recipe: TensorRecipe, job: ConversionJob, let_through: Callable[..., object]
) -> TracedTensor:
    """The tensor that a conversion makes when its first operation lets something through."""
    converter = deepcopy(job.converter)
    first: Any = copy(converter.operations[0])
    first._dequantize_one = let_through
    converter.operations = [first, *converter.operations[1:]]
    made = replace(job, converter=converter).run(
        [
            TracedTensor.of_source(number, source.span.shape, source.dtype)
            for number, source in enumerate(job.sources)
        ]
    )[recipe.name]
    if not isinstance(made, TracedTensor):
        raise TypeError(f"{recipe.name} was computed")
    return made


def _runs_by_source(tensor: TracedTensor) -> dict[int, Run]:
    """The one run of each source in a tensor; empty where a source is there in several."""
    runs = {run.source: run for run in runs_of(tensor, _MOST_TILES)}
    covered = sum(run.elements for run in runs.values()) == math.prod(tensor.shape)
    return runs if covered else {}


def _placed(
    name: str,
    dtype: torch.dtype,
    tensor: TracedTensor,
    runs: Mapping[int, Run],
    job: ConversionJob,
) -> TensorRecipe:
    pieces = []
    for run in runs.values():
        span = job.sources[run.source].span
        item = dtype.itemsize
        pieces.append(
            Piece(span, run.source_element * item, run.elements * item, run.target_element)
        )
    return TensorRecipe(name, dtype, tuple(tensor.shape), tuple(pieces), None)


def _mxfp4(recipe: TensorRecipe, job: ConversionJob) -> Quantized | None:
    if len(job.converter.operations) != 1 or len(job.sources) != 2:
        return None
    # transformers' conversion asks for them by these names too.
    by_name = {source.pattern.rpartition("_")[2].rstrip("$"): source for source in job.sources}
    blocks, scales = by_name["blocks"], by_name["scales"]
    experts, rows, columns = recipe.shape
    shapes = (blocks.span.shape, scales.span.shape)
    wanted = ((experts, columns, rows // 32, 16), (experts, columns, rows // 32))
    dtypes = {source.dtype for source in job.sources} | {torch_dtype(s.span) for s in job.sources}
    if shapes != wanted or rows % 32 or dtypes != {torch.uint8}:
        return None
    return Quantized(
        "mxfp4",
        _stored(f"{recipe.name}_values", blocks),
        _stored(f"{recipe.name}_scales", scales),
    )


def _stored(name: str, source: Source) -> TensorRecipe:
    whole = Piece(source.span, 0, source.span.size_bytes, 0)
    return TensorRecipe(name, source.dtype, source.span.shape, (whole,), None)


def _agrees(
    found: Quantized, recipe: TensorRecipe, dtype: torch.dtype, job: ConversionJob, operation: Any
) -> bool:
    """Whether transformers' operation makes the same bits of a sample."""
    fp8 = found.kind == "fp8"
    values, scales = _sample_fp8(found.scales.dtype) if fp8 else _sample_mxfp4()
    made = operation.convert(
        _named(found, job, values, scales), model=job.model, full_layer_name=recipe.name
    )
    (theirs,) = made.values()
    theirs = theirs[0] if isinstance(theirs, list) else theirs
    if theirs.dtype != recipe.dtype:
        return False
    theirs = theirs.detach().to(dtype).contiguous()
    ours = torch.empty(theirs.shape, dtype=dtype)
    expand(found.kind, values, scales, ours)
    return torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def _named(
    found: Quantized, job: ConversionJob, values: torch.Tensor, scales: torch.Tensor
) -> dict[str, list[torch.Tensor]]:
    """A sample under the names by which the operation finds the first values and scales."""
    sources = {source.span.name: source for source in job.sources}
    first = sources[found.values.pieces[0].span.name]
    second = sources[found.scales.pieces[0].span.name]
    return {first.pattern: [values.to(first.dtype)], second.pattern: [scales]}


def _sample_fp8(scales: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every value there is beside the two that are none, with scales that need rounding."""
    rows, columns = _SAMPLE_BLOCK
    codes = torch.arange(256, dtype=torch.int16)
    codes = torch.where(codes % 128 == 127, 0, codes).to(torch.uint8)
    values = codes.repeat(2).view(2 * rows, 2 * columns).view(torch.float8_e4m3fn)
    return values, torch.tensor([[0.0123, 7e-5], [3.1e-39, 341.7]]).to(scales)


def _sample_mxfp4() -> tuple[torch.Tensor, torch.Tensor]:
    """Every byte, with exponents at both ends and in the middle."""
    blocks = torch.arange(256, dtype=torch.int16).to(torch.uint8).repeat(2).view(2, 4, 4, 16)
    exponents = [0, 1, 5, 100, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 130, 140]
    scales = torch.tensor(exponents, dtype=torch.uint8).repeat(2).view(2, 4, 4)
    return blocks, scales
