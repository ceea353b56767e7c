"""Quantized tensors whose values and scales can be placed before they are expanded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.quantized.form import StoredForm
from ollm_widgets.weights.reading.reader import WeightReader
from tests.weights.quantized.samples import same_bits
from tests.weights.quantized_models import FP8_LLAMA, FP8_MIXTURE, QUANTIZED, quantize
from tests.weights.streamed_models import CPU, save_lively

Change = Callable[[dict[str, torch.Tensor]], None]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def fp8_llama(tmp_path: Path) -> Path:
    folder = save_lively(FP8_LLAMA, tmp_path / "model")
    quantize(folder, "fp8")
    return folder


def recipes_of(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, TensorRecipe]:
    model = build_skeleton(folder, dtype, CPU, "causal-lm")
    return recipes_for(model, CheckpointIndex.of(folder))


def changed(folder: Path, change: Change) -> dict[str, TensorRecipe]:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return recipes_of(folder)


def assert_expands_as_converted(folder: Path, recipes: dict[str, TensorRecipe], name: str) -> None:
    layout = LayerLayout.of("", [recipes[name]])
    form = StoredForm.of(layout)
    assert form is not None
    converted = torch.empty(layout.size_bytes, dtype=torch.uint8)
    stored = torch.empty(form.size_bytes, dtype=torch.uint8)
    expanded = torch.empty_like(converted)
    with WeightReader(CheckpointIndex.of(folder), threads=2) as reader:
        reader.read(layout, converted).wait()
        reader.read(form.layout, stored).wait()
    form.expand_into(stored, expanded)
    assert same_bits(layout.views(expanded)[name], layout.views(converted)[name])


def test_the_experts_of_a_mixture_are_placed_by_their_values_and_scales(tmp_path: Path) -> None:
    folder = save_lively(FP8_MIXTURE, tmp_path / "model")
    quantize(folder, "fp8")
    recipes = recipes_of(folder)
    found = recipes["model.layers.2.mlp.experts.gate_up_proj"].quantized
    assert found is not None
    assert found.values.shape == recipes["model.layers.2.mlp.experts.gate_up_proj"].shape
    assert len(found.values.pieces) == len(found.scales.pieces) == 2 * FP8_MIXTURE.experts[0]
    assert found.scales.shape == (4, 4, 2)
    assert_expands_as_converted(folder, recipes, "model.layers.2.mlp.experts.gate_up_proj")


@pytest.mark.parametrize("scales", [torch.bfloat16, torch.float16])
def test_scales_of_other_dtypes_are_read_as_they_are(fp8_llama: Path, scales: torch.dtype) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{UP}_scale_inv"] = tensors[f"{UP}_scale_inv"].to(scales)

    recipes = changed(fp8_llama, change)
    quantized = recipes[UP].quantized
    assert quantized is not None
    assert quantized.scales.dtype == scales
    assert_expands_as_converted(fp8_llama, recipes, UP)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_may_belong_to_a_whole_tensor(fp8_llama: Path, shape: tuple[int, ...]) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{UP}_scale_inv"] = torch.full(shape, 0.0371)

    assert_expands_as_converted(fp8_llama, changed(fp8_llama, change), UP)


def test_exponents_as_scales_are_left_to_transformers(fp8_llama: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        size = tensors[f"{UP}_scale_inv"].shape
        tensors[f"{UP}_scale_inv"] = torch.full(size, 120, dtype=torch.uint8)

    recipes = changed(fp8_llama, change)
    assert recipes[UP].quantized is None
    assert recipes[UP].conversion is not None
    assert recipes[UP.replace("up_proj", "gate_proj")].quantized is not None


def test_a_weight_that_is_stored_plain_among_quantized_ones_stays_plain(fp8_llama: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{UP}_scale_inv"]
        tensors[UP] = tensors[UP].to(torch.bfloat16)

    recipes = changed(fp8_llama, change)
    assert recipes[UP].quantized is None
    assert recipes[UP].dtype == torch.bfloat16


def test_experts_of_different_blocks_are_left_to_transformers(tmp_path: Path) -> None:
    folder = save_lively(FP8_MIXTURE, tmp_path / "model")
    quantize(folder, "fp8")
    name = "model.layers.0.mlp.experts.1.up_proj.weight_scale_inv"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.full((1, 1), 0.05)

    recipes = changed(folder, change)
    assert recipes["model.layers.0.mlp.experts.gate_up_proj"].quantized is None
    assert recipes["model.layers.0.mlp.experts.down_proj"].quantized is not None


@pytest.mark.parametrize("name", QUANTIZED)
def test_bits_that_transformers_would_not_make_are_not_ours_to_make(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import finegrained_fp8, mxfp4

    architecture, method = QUANTIZED[name]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    assert any(recipe.quantized for recipe in recipes_of(folder).values())
    operation: Any = finegrained_fp8.Fp8Dequantize if method == "fp8" else mxfp4.Mxfp4Dequantize
    own = operation.convert

    def another(self: Any, tensors: Any, **settings: Any) -> Any:
        made = own(self, tensors, **settings)
        for value in made.values():
            for each in value if isinstance(value, list) else [value]:
                if type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta:
                    each.detach().view(-1)[0] += 1
        return made

    monkeypatch.setattr(operation, "convert", another)
    recipes = recipes_of(folder)
    assert not any(recipe.quantized for recipe in recipes.values())
    assert any(recipe.conversion for recipe in recipes.values())


def test_a_config_that_announces_nothing_makes_no_forms(tmp_path: Path) -> None:
    folder = save_lively(FP8_LLAMA, tmp_path / "model")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert not any(recipe.quantized for recipe in recipes_of(folder).values())
