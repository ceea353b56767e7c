"""Layers as they are stored, and what they are expanded to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.quantized.form import StoredForm
from ollm_widgets.weights.reading.reader import WeightReader
from tests.weights.checkpoints import as_it_is, index_of
from tests.weights.quantized.samples import same_bits
from tests.weights.quantized_models import QUANTIZED, quantize
from tests.weights.streamed_models import CPU, save_lively


def form_of(layout: LayerLayout) -> StoredForm:
    form = StoredForm.of(layout)
    assert form is not None
    return form


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", QUANTIZED)
def test_a_stored_layer_expands_to_what_transformers_converts_it_to(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    architecture, method = QUANTIZED[name]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    index = CheckpointIndex.of(folder)
    model = build_skeleton(folder, dtype, CPU, "causal-lm")
    layout = LayerLayout.of("model.layers.1", recipes_for(model, index).values())
    form = form_of(layout)
    converted = torch.empty(layout.size_bytes, dtype=torch.uint8)
    stored = torch.empty(form.size_bytes, dtype=torch.uint8)
    expanded = torch.full((layout.size_bytes + 512,), 9, dtype=torch.uint8)
    with WeightReader(index, threads=2) as reader:
        reader.read(layout, converted).wait()
        reader.read(form.layout, stored).wait()
    form.expand_into(stored, expanded)
    wanted = layout.views(converted)
    assert set(form.kinds.values()) == {method}
    assert {slot.name for slot in layout.slots if slot.recipe.conversion} == set(form.kinds)
    for tensor, view in layout.views(expanded).items():
        assert same_bits(view, wanted[tensor]), tensor
    assert bool((expanded[layout.size_bytes :] == 9).all())


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_tensors_are_held_in_exactly_the_bytes_of_the_checkpoint(
    name: str, tmp_path: Path
) -> None:
    architecture, method = QUANTIZED[name]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    index = CheckpointIndex.of(folder)
    model = build_skeleton(folder, torch.bfloat16, CPU, "causal-lm")
    form = form_of(LayerLayout.of("model.layers.0", recipes_for(model, index).values()))
    own = [span for key, span in index.spans.items() if key.startswith("model.layers.0.")]
    assert sum(slot.size_bytes for slot in form.layout.slots) == sum(s.size_bytes for s in own)
    assert sum(slot.recipe.stored_bytes for slot in form.layout.slots) == sum(
        slot.size_bytes for slot in form.layout.slots
    )


def test_a_plain_layer_has_no_other_form(tmp_path: Path) -> None:
    index = index_of(tmp_path, weight=torch.zeros(8, 8))
    layout = LayerLayout.of("", [as_it_is(span) for span in index.spans.values()])
    assert StoredForm.of(layout) is None
    assert StoredForm.of(LayerLayout((), 0)) is None


def test_buffers_that_do_not_fit_are_refused_with_their_sizes(tmp_path: Path) -> None:
    architecture, method = QUANTIZED["fp8 llama"]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    model = build_skeleton(folder, torch.bfloat16, CPU, "causal-lm")
    recipes = recipes_for(model, CheckpointIndex.of(folder))
    form = form_of(LayerLayout.of("model.layers.0", recipes.values()))
    stored = torch.zeros(form.size_bytes, dtype=torch.uint8)
    out = torch.zeros(form.raw_size_bytes, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"{form.size_bytes:,} are needed"):
        form.expand_into(stored[:-512], out)
    with pytest.raises(ValueError, match=f"{form.raw_size_bytes:,} are needed"):
        form.expand_into(stored, out[:-512])
    with pytest.raises(ValueError, match="does not expand to meta"):
        form.expand_into(stored, out.to("meta"))
