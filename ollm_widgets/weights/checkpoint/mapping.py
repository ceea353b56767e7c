"""Which checkpoint tensors make which module tensor: transformers' own renaming, on names alone.

Follows `convert_and_load_state_dict_in_model` of ``transformers/core_model_loading.py``.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.checkpoint.conversions import Source, torch_dtype
from ollm_widgets.weights.checkpoint.index import CheckpointIndex, TensorSpan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True)
class MappedTensor:
    """The checkpoint tensors of one module tensor, or of several that are made together.

    Parameters
    ----------
    name
        Full name of the module tensor; of the first one where a converter makes several.
    converter
        A `WeightConverter` of transformers, or ``None`` where the tensor is only renamed.
    sources
        In the converter's order; one where the tensor is only renamed.
    """

    name: str
    converter: Any
    sources: list[Source] = field(default_factory=list)


def map_tensors(
    model: PreTrainedModel, index: CheckpointIndex, state: dict[str, torch.Tensor]
) -> list[MappedTensor]:
    """Sort the tensors of a checkpoint by what they make in a model.

    Parameters
    ----------
    model
        The model on meta.
    index
        The checkpoint; its tensors that the model has no place for are passed over.
    state
        The model's state dict.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None and getattr(model.config, "quantization_config", None) is not None:
        raise SpecializationLoadError(
            "The checkpoint is quantized, and its model was built without the quantizer.",
            hint="Use backend='transformers-generic'.",
        )
    if quantizer is not None and not quantizer.pre_quantized:
        raise SpecializationLoadError(
            "The model would be quantized while it is loaded.",
            hint="Use a checkpoint that is quantized already, or backend='transformers-generic'.",
        )
    transforms = get_model_conversion_mapping(model, hf_quantizer=quantizer)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    prefix = model.base_model_prefix
    dtypes = DtypePolicy(model, quantizer)
    mapped: dict[str, MappedTensor] = {}
    for key in sorted(index.spans, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name not in state:
            continue
        span = index.spans[key]
        group = mapped.get(name)
        if group is None:
            converter = None if pattern is None else deepcopy(by_pattern[pattern])
            group = mapped[name] = MappedTensor(name, converter)
        # Of several tensors that are renamed to the same, transformers takes the first.
        if group.converter is not None or not group.sources:
            dtype = dtypes.of(group.converter, span, name, state[name].dtype)
            group.sources.append(Source(span, pattern or key, dtype))
    return list(mapped.values())


class DtypePolicy:
    """To which dtype a checkpoint tensor is cast: the model's, or float32 where it asks for it."""

    def __init__(self, model: PreTrainedModel, quantizer: Any = None) -> None:
        configured = getattr(model.config, "dtype", None)
        dtype = configured if isinstance(configured, torch.dtype) else model.dtype
        self._plan = [
            (re.compile(pattern.replace("*", ".*")), planned)
            for pattern, planned in model._get_dtype_plan(dtype).items()
        ]
        self._quantizer = quantizer

    def planned(self, name: str, module: torch.dtype) -> torch.dtype:
        """The dtype of a module tensor in a plain model; `module` is what the tensor announces."""
        return next((dtype for pattern, dtype in self._plan if pattern.search(name)), module)

    def of(self, converter: Any, span: TensorSpan, name: str, module: torch.dtype) -> torch.dtype:
        """The dtype to which a checkpoint tensor is cast before it is converted."""
        dtype = self.planned(name, module)
        if self._quantizer is None:
            return dtype
        stored = torch_dtype(span)
        ask = getattr(self._quantizer, "get_new_dtype", None)
        if ask is not None:
            return ask(converter, torch.empty(0, dtype=stored), dtype) or stored
        # Without that method, transformers keeps what is renamed in the dtype it is stored in.
        return dtype if span.name == name and stored.is_floating_point else stored
