"""Weights and KV cache: what is planned from headers and configs against real models, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.memory import kv_layer_bytes
from ollm_widgets.planning.weights import WeightSizes, weight_sizes
from tests.models.architectures import Architecture
from tests.planning.allocations import DECODERS, built, prompt_pass, storage_bytes
from tests.weights.quantized_models import QUANTIZED, expanded, quantize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Built = Callable[[Architecture], "tuple[PreTrainedModel, ResolvedModel]"]


@pytest.fixture(scope="module")
def build_tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    made: dict[str, tuple[PreTrainedModel, ResolvedModel]] = {}

    def make(architecture: Architecture) -> tuple[PreTrainedModel, ResolvedModel]:
        name = architecture.model_type
        if name not in made:
            made[name] = built(architecture, tmp_path_factory.mktemp("tiny") / name)
        return made[name]

    return make


def sizes_of(model: ResolvedModel, dtype: DType = "bfloat16") -> WeightSizes:
    sizes = weight_sizes(model, dtype)
    assert sizes is not None
    return sizes


def held_by(tensors: Sequence[Any]) -> int:
    """Bytes of tensors, each once, however many names it has."""
    return sum({each.data_ptr(): each.nbytes for each in tensors if each.nbytes}.values())


def module_bytes(model: PreTrainedModel) -> tuple[tuple[int, ...], int]:
    """Bytes of each decoder layer, and of all else, that a checkpoint fills."""
    from ollm_widgets.weights.model.structure import decoder_structure

    filled = set(model.state_dict())
    names = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    total = held_by([tensor for name, tensor in names.items() if name in filled])
    layers = tuple(
        held_by(list(layer.state_dict().values())) for layer in decoder_structure(model).layers
    )
    return layers, total - sum(layers)


# ------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_weights_are_planned_to_the_byte(architecture: Architecture, build_tiny: Built) -> None:
    model, resolved = build_tiny(architecture)
    sizes = sizes_of(resolved)
    layers, other = module_bytes(model)
    assert sizes.layer_bytes == layers
    assert sizes.embeddings_bytes == other


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights_are_planned_as_they_run(name: str, tmp_path: Path) -> None:
    import torch

    architecture, method = QUANTIZED[name]
    folder = tmp_path / "model"
    built(architecture, folder)
    quantize(folder, method)
    resolved = inspect_materialized_model(str(folder), folder, "local-path")
    sizes = sizes_of(resolved)
    layers, other = module_bytes(expanded(folder, method, torch.bfloat16))
    assert sizes.layer_bytes == layers
    assert sizes.embeddings_bytes == other


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights_are_planned_as_they_are_held(name: str, tmp_path: Path) -> None:
    import torch

    from ollm_widgets.weights.checkpoint.index import CheckpointIndex
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.checkpoint.recipes import recipes_for
    from ollm_widgets.weights.model.skeleton import build_skeleton
    from ollm_widgets.weights.model.structure import decoder_structure
    from ollm_widgets.weights.quantized.form import StoredForm

    architecture, method = QUANTIZED[name]
    folder = tmp_path / "model"
    built(architecture, folder)
    quantize(folder, method)
    sizes = sizes_of(inspect_materialized_model(str(folder), folder, "local-path"))
    model = build_skeleton(folder, torch.bfloat16, torch.device("cpu"), "causal-lm")
    structure = decoder_structure(model)
    recipes = recipes_for(model, CheckpointIndex.of(folder))
    layers, experts = [], []
    for number, group in enumerate(structure.expert_groups):
        form = StoredForm.of(LayerLayout.of(f"{structure.path}.{number}", recipes.values()))
        assert form is not None
        layers.append(sum(slot.size_bytes for slot in form.layout.slots))
        path = f"{group.path}." if group is not None else "no experts"
        own = [slot.size_bytes for slot in form.layout.slots if slot.name.startswith(path)]
        experts.append(sum(own))
    assert sizes.held_layers == sizes.stored_layer_bytes == tuple(layers)
    assert (sizes.held_experts or (0,) * len(layers)) == tuple(experts)
    assert sum(layers) < 0.85 * sum(sizes.layer_bytes)


def test_a_gguf_is_planned_as_it_runs(smollm_gguf: Path, converted_smollm: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    resolved = inspect_materialized_model(str(smollm_gguf), smollm_gguf, "local-path")
    sizes = sizes_of(resolved)
    model = AutoModelForCausalLM.from_pretrained(converted_smollm, dtype=torch.bfloat16)
    layers, other = module_bytes(model)
    assert sizes.layer_bytes == layers
    assert sizes.embeddings_bytes == other


@pytest.mark.parametrize("architecture", [each for each in DECODERS if each.experts[0]], ids=str)
def test_experts_are_planned_to_the_byte(architecture: Architecture, build_tiny: Built) -> None:
    from ollm_widgets.weights.model.structure import decoder_structure

    model, resolved = build_tiny(architecture)
    structure = decoder_structure(model)
    held = tuple(
        held_by(list(layer.get_submodule(group.path).parameters())) if group else 0
        for layer, group in zip(structure.layers, structure.expert_groups, strict=True)
    )
    assert sizes_of(resolved).expert_bytes == held


# ------------------------------------------------------------------------------------ KV cache


def cached_bytes(cache: Any) -> tuple[int, ...]:
    """Bytes of the memory that each layer of a cache keeps: keys and values, or a state."""
    return tuple(storage_bytes(list(_kept_by(layer))) for layer in cache.layers)


def _kept_by(layer: Any) -> Iterator[Any]:
    for name in ("keys", "values"):
        if getattr(layer, name, None) is not None:
            yield getattr(layer, name)
    for name in ("conv_states", "recurrent_states"):
        yield from (state for state in getattr(layer, name, {}).values() if state is not None)


@pytest.mark.parametrize("tokens", [10, 41])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_the_kv_cache_is_planned_to_the_byte(
    architecture: Architecture, dtype: DType, tokens: int, build_tiny: Built
) -> None:
    """Of windows of 16 tokens: 10 are within, 41 beyond."""
    import torch

    model, resolved = build_tiny(architecture)
    assert resolved.shape is not None
    model.to(getattr(torch, dtype))
    output = prompt_pass(model, tokens - 1)()
    name = "cache_params" if architecture.model_type == "mamba2" else "past_key_values"
    cache = getattr(output, name)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5]]), use_cache=True, **{name: cache})
    assert kv_layer_bytes(resolved.shape, dtype, tokens) == cached_bytes(cache)


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_cache_of_fixed_addresses_keeps_every_token(
    architecture: Architecture, build_tiny: Built
) -> None:
    import torch

    from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache

    model, resolved = build_tiny(architecture)
    assert resolved.shape is not None
    model.float()
    cache = fixed_cache(model.config, 64, torch.device("cpu"))
    assert isinstance(cache, FixedCache)
    name = "cache_params" if architecture.model_type == "mamba2" else "past_key_values"
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True, **{name: cache})
    planned = kv_layer_bytes(resolved.shape, "float32", 64, every_token=True)
    assert planned == cached_bytes(cache)
