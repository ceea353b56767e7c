"""Module tensors that transformers' own operations make out of checkpoint tensors."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.checkpoint.index import TensorSpan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint tensor on its way into a module tensor.

    Parameters
    ----------
    span
        The checkpoint tensor.
    pattern
        Which of the converter's patterns it matched; its own name where it is only renamed.
    dtype
        To which it is cast first.
    """

    span: TensorSpan
    pattern: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class ConversionJob:
    """One run of transformers' operations; it may give several module tensors.

    Parameters
    ----------
    converter
        A `WeightConverter` that holds no tensors.
    first_name
        Full name of its first target.
    sources
        In the order in which the converter wants them.
    model
        Whose config and shapes some operations ask.
    """

    converter: Any
    first_name: str
    sources: tuple[Source, ...]
    model: PreTrainedModel

    def run(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert the tensors of the sources, in their order; gives module tensors by name."""
        # Some operations keep state; a converter of its own lets several threads run at once.
        converter = deepcopy(self.converter)
        for source, tensor in zip(self.sources, tensors, strict=True):
            cast = tensor.to(source.dtype)
            converter.add_tensor(self.first_name, source.span.name, source.pattern, cast)
        made = converter.convert(self.first_name, model=self.model, config=self.model.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in made.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """A module tensor that transformers' own operations make.

    Parameters
    ----------
    target
        Full name of the module tensor.
    job
        The run that gives it; shared by all tensors that come out of it.
    """

    target: str
    job: ConversionJob

    @property
    def spans(self) -> tuple[TensorSpan, ...]:
        """The checkpoint tensors it needs, in order."""
        return tuple(source.span for source in self.job.sources)

    def run(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Convert the checkpoint tensors, given in the order of `spans`."""
        return self.job.run(tensors)[self.target]


def torch_dtype(span: TensorSpan) -> torch.dtype:
    """The dtype of a checkpoint tensor.

    Raises
    ------
    SpecializationLoadError
        When this torch has none of that name.
    """
    dtype = getattr(torch, span.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise SpecializationLoadError(
            f"{span.path}: tensor {span.name!r} is of dtype {span.dtype}, which torch "
            f"{torch.__version__} does not have.",
            hint="Use backend='transformers-generic'.",
        )
    return dtype
