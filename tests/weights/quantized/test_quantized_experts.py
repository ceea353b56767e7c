"""Experts that are held as they are stored and expanded where they are chosen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.experts.sources import (
    DiskExperts,
    ExpertForm,
    ExpertSource,
    HostExperts,
)
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.model.structure import decoder_structure
from ollm_widgets.weights.quantized.form import StoredForm
from ollm_widgets.weights.reading.reader import WeightReader
from tests.weights.quantized.samples import same_bits
from tests.weights.quantized_models import BLOCK, expanded, quantize, sized
from tests.weights.streamed_experts import Origin, streamed
from tests.weights.streamed_models import CPU, PADDED, greedy, logits, prompts, save_lively

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORT = prompts([12, 5])
EXPERTS = 8
QUANTIZED = {
    "fp8": sized(
        "qwen3_moe", moe_intermediate_size=2 * BLOCK, num_experts=EXPERTS, num_experts_per_tok=3
    ),
    "mxfp4": sized(
        "gpt_oss", intermediate_size=64, num_local_experts=EXPERTS, num_experts_per_tok=3
    ),
}
Model = Callable[[str], "tuple[PreTrainedModel, Path]"]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Model:
    known: dict[str, tuple[PreTrainedModel, Path]] = {}

    def model(method: str) -> tuple[PreTrainedModel, Path]:
        if method not in known:
            folder = tmp_path_factory.mktemp(method) / "model"
            architecture = replace(QUANTIZED[method], experts=(EXPERTS, 3))
            quantize(save_lively(architecture, folder), method)
            whole = expanded(folder, method, torch.bfloat16)
            whole.set_experts_implementation("eager")
            known[method] = whole, folder
        return known[method]

    return model


def stored_sources(folder: Path, origin: Origin, stack: ExitStack) -> list[ExpertSource]:
    """The experts of a checkpoint as they are stored, in host memory or on disk."""
    index = CheckpointIndex.of(folder)
    reader = stack.enter_context(WeightReader(index, threads=2))
    model = build_skeleton(folder, torch.bfloat16, CPU, "causal-lm")
    structure, recipes = decoder_structure(model), recipes_for(model, index)
    found: list[ExpertSource] = []
    for number, group in enumerate(structure.expert_groups):
        assert group is not None
        prefix = f"{structure.path}.{number}"
        paths = [f"{prefix}.{group.path}.{name}" for name in group.parameters]
        layout = LayerLayout.of(prefix, [recipes[path] for path in paths])
        stored, form = StoredForm.of(layout), ExpertForm.of(layout, group)
        assert stored is not None
        assert form.expands
        names = form.held_names(group)
        if origin == "disk":
            held = {slot.name: slot.recipe for slot in stored.layout.slots}
            found.append(DiskExperts(reader, {n: held[p] for n, p in names.items()}, form))
            continue
        buffer = torch.empty(stored.size_bytes, dtype=torch.uint8)
        reader.read(stored.layout, buffer).wait()
        views = stored.layout.views(buffer)
        found.append(HostExperts({n: views[p] for n, p in names.items()}, form))
    return found


@pytest.mark.parametrize(
    ("origin", "slots", "whole_layers", "cached"),
    [
        ("addresses", 9, 1, 3),
        ("addresses", 3, 1, 0),
        ("addresses", 4, 0, 3),
        ("host list", 3, 1, 3),
        ("disk", 9, 1, 0),
        ("disk", 3, 1, 3),
        ("disk", 4, 0, 3),
        ("in place", 3, 1, 0),
    ],
)
@pytest.mark.parametrize("method", QUANTIZED)
def test_logits_and_tokens_are_those_of_the_expanded_model(
    method: str, origin: Origin, slots: int, whole_layers: int, cached: int, model_of: Model
) -> None:
    model, folder = model_of(method)
    with (
        ExitStack() as stack,
        streamed(
            model,
            origin,
            folder,
            slots=slots,
            cached=cached,
            whole_layers=whole_layers,
            sources=stored_sources(folder, origin, stack),
        ) as copy,
    ):
        # Without room for whole layers a prompt passes a token at a time.
        prompt = PADDED if whole_layers else SHORT
        assert torch.equal(logits(copy.model, prompt), logits(model, prompt))
        copy.streaming.rebalance()
        assert torch.equal(greedy(copy.model, prompt), greedy(model, prompt))
        copy.streaming.rebalance()
        assert torch.equal(logits(copy.model, prompt), logits(model, prompt))


@pytest.mark.parametrize("method", QUANTIZED)
def test_what_moves_and_what_is_cached_are_the_bytes_of_the_checkpoint(
    method: str, model_of: Model
) -> None:
    model, folder = model_of(method)
    with ExitStack() as stack:
        sources = stored_sources(folder, "addresses", stack)
        held = sum(tensor.row_bytes for tensor in sources[0].tensors)
        made = sum(tensor.row_bytes for tensor in sources[0].form.made)
        assert held < 0.6 * made
        with streamed(model, "addresses", folder, slots=9, cached=2, sources=sources) as copy:
            assert copy.streaming.cached_experts == 2
            greedy(copy.model, PADDED, 1)
            traffic = copy.streaming.traffic()
            assert traffic.moved_bytes == traffic.misses * held > 0


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_row_of_a_source_expands_to_that_of_the_module(method: str, model_of: Model) -> None:
    model, folder = model_of(method)
    structure = decoder_structure(model)
    group = structure.expert_groups[1]
    assert group is not None
    module = structure.layers[1].get_submodule(group.path)
    with ExitStack() as stack:
        for origin in ("addresses", "disk"):
            source = stored_sources(folder, origin, stack)[1]
            held = {
                each.name: torch.zeros(3, *each.row_shape, dtype=each.dtype)
                for each in source.tensors
            }
            out = {
                each.name: torch.zeros(3, *each.row_shape, dtype=each.dtype)
                for each in source.form.made
            }
            source.fetch([6, 0], [0, 2], held)
            source.form.expand(held, out, torch.tensor([6, -1, 0]))
            for name, tensor in out.items():
                own = module.get_parameter(name).detach()
                assert same_bits(tensor[[0, 2]], own[[6, 0]])
                assert not tensor[1].any()
