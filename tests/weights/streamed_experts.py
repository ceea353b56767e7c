"""Tiny mixtures of experts, whole and streamed, for the tests of streaming."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.experts.sources import DiskExperts, ExpertSource, HostExperts
from ollm_widgets.weights.experts.streaming import ExpertLayer, ExpertStreaming
from ollm_widgets.weights.model.structure import decoder_structure
from ollm_widgets.weights.reading.reader import WeightReader
from tests.models.architectures import ARCHITECTURES, GROUPED, HEADED, Architecture, build

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Origin = Literal["in place", "addresses", "host list", "disk"]
ORIGINS: tuple[Origin, ...] = ("in place", "addresses", "host list", "disk")

# More experts than the shared table has, so that a token leaves most of them alone.
_COUNTS = {"num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8}
_MORE = (
    Architecture(
        "olmoe", {**GROUPED, "num_experts": 8, "num_experts_per_tok": 3}, "OlmoeForCausalLM"
    ),
    Architecture(
        "phimoe", {**GROUPED, "num_local_experts": 8, "num_experts_per_tok": 2}, "PhimoeForCausalLM"
    ),
    Architecture(
        "ernie4_5_moe",
        {
            **HEADED,
            "moe_num_experts": 8,
            "moe_k": 3,
            "moe_intermediate_size": 16,
            "moe_layer_start_index": 0,
            "moe_layer_interval": 1,
        },
        "Ernie4_5_MoeForCausalLM",
    ),
)


def _enlarged(architecture: Architecture) -> Architecture:
    counts = {name: 8 for name in _COUNTS if name in architecture.settings}
    chosen = 2 if architecture.model_type == "mixtral" else 3
    settings = {**architecture.settings, **counts, "num_experts_per_tok": chosen}
    return replace(architecture, settings=settings)


MIXTURES = (*(_enlarged(each) for each in ARCHITECTURES if each.experts[0]), *_MORE)


def whole_model(architecture: Architecture, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model whose tokens vary and whose routers do not all choose the same."""
    model = build(architecture).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                values = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(values.to(dtype))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@dataclass
class Streamed:
    """A model whose experts stream, and what streams them."""

    model: PreTrainedModel
    streaming: ExpertStreaming
    modules: tuple[nn.Module, ...]


def experts_of(model: PreTrainedModel) -> list[tuple[str, nn.Module, tuple[str, ...]]]:
    """Path, module and stacked parameters of each layer that has experts."""
    structure = decoder_structure(model)
    return [
        (
            f"{structure.path}.{number}.{group.path}",
            layer.get_submodule(group.path),
            group.parameters,
        )
        for number, (layer, group) in enumerate(
            zip(structure.layers, structure.expert_groups, strict=True)
        )
        if group is not None
    ]


def without_experts(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose stacked parameters are on meta."""
    bare = copy.deepcopy(model)
    for _, module, names in experts_of(bare):
        for name in names:
            own = module._parameters[name]
            assert own is not None
            module._parameters[name] = nn.Parameter(own.to("meta"), requires_grad=False)
    return bare


def host_sources(model: PreTrainedModel) -> list[HostExperts]:
    """The experts of a model in host memory."""
    return [
        HostExperts({name: module.get_parameter(name).detach() for name in names})
        for _, module, names in experts_of(model)
    ]


def disk_sources(
    model: PreTrainedModel, folder: Path, stack: ExitStack
) -> tuple[list[DiskExperts], WeightReader]:
    """The experts of a model saved in a folder, and the reader that reads them."""
    index = CheckpointIndex.of(folder)
    with torch.device("meta"):
        bare = type(model)(copy.deepcopy(model.config)).to(model.dtype)
    recipes = recipes_for(bare, index)
    reader = stack.enter_context(WeightReader(index, threads=2))
    sources = [
        DiskExperts(reader, {name: recipes[f"{path}.{name}"] for name in names})
        for path, _, names in experts_of(model)
    ]
    return sources, reader


@contextmanager
def streamed(
    model: PreTrainedModel,
    origin: Origin,
    folder: Path,
    *,
    slots: int = 4,
    cached: int = 0,
    whole_layers: int = 1,
    sources: Sequence[ExpertSource] | None = None,
) -> Iterator[Streamed]:
    """A copy of a model whose experts come from elsewhere; room for `cached` of them."""
    with ExitStack() as stack:
        if sources is None:
            sources = (
                disk_sources(model, folder, stack)[0] if origin == "disk" else host_sources(model)
            )
        if origin == "host list":
            sources = [Listed(each) for each in sources]
        bare = without_experts(model)
        modules = tuple(module for _, module, _ in experts_of(bare))
        pairs = zip(modules, sources, strict=True)
        streaming = ExpertStreaming(
            [ExpertLayer(module, source) for module, source in pairs],
            device=torch.device("cpu"),
            slots=slots,
            cache_bytes=cached * expert_bytes(sources),
            whole_layers=whole_layers,
            in_place=origin == "in place",
        )
        stack.callback(streaming.close)
        streaming.install()
        yield Streamed(bare, streaming, modules)


def expert_bytes(sources: Sequence[ExpertSource]) -> int:
    """Room that a cache takes for one expert."""
    from ollm_widgets.weights.experts.sources import stacked_bytes

    return max(stacked_bytes(source.tensors, 1) for source in sources)


class Listed:
    """A source like any other that is not the checkpoint and has no addresses."""

    def __init__(self, source: ExpertSource) -> None:
        self.experts = source.experts
        self.tensors = source.tensors
        self.form = source.form
        self._source = source

    def fetch(
        self,
        experts: Sequence[int],
        rows: Sequence[int],
        out: Mapping[str, torch.Tensor],
        cancel: threading.Event | None = None,
    ) -> None:
        self._source.fetch(experts, rows, out, cancel)
