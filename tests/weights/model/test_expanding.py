"""Quantized checkpoints in the engine: the same tokens as transformers makes of plain weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.model.expanding import forget_quantization
from ollm_widgets.weights.model.skeleton import build_skeleton
from ollm_widgets.weights.quantized.form import StoredForm
from ollm_widgets.weights.reading.spilling import SpillFolder
from tests.weights.quantized_models import FP8_LLAMA, QUANTIZED, expanded, quantize
from tests.weights.streamed_models import (
    ALONE,
    BATCHES,
    CPU,
    PADDED,
    engine_of,
    greedy,
    save_lively,
)

PLACEMENTS: dict[str, tuple[LayerTier, ...]] = {
    "in RAM": ("host",) * 5,
    "on disk": ("disk",) * 5,
    "mixed": ("host", "disk", "disk", "host", "disk"),
}
SINGLE_EXPERTS = StreamingPlan(device_slots=2, expert_streaming=True, expert_slots=4)


@pytest.fixture(scope="module")
def quantized_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("quantized")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            architecture, method = QUANTIZED[name]
            quantize(save_lively(architecture, path), method)
        return path

    return folder


@pytest.mark.parametrize("streaming", [StreamingPlan(device_slots=2), SINGLE_EXPERTS])
@pytest.mark.parametrize("tiers", PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_tokens_are_those_of_the_expanded_model_in_every_placement(
    name: str,
    tiers: tuple[LayerTier, ...],
    streaming: StreamingPlan,
    quantized_folder: Callable[[str], Path],
) -> None:
    architecture, method = QUANTIZED[name]
    folder = quantized_folder(name)
    whole = expanded(folder, method, torch.bfloat16)
    with engine_of(
        architecture, folder, dtype=torch.bfloat16, tiers=tiers, streaming=streaming
    ) as engine:
        for prompt in BATCHES.values():
            assert torch.equal(greedy(engine.model, prompt), greedy(whole, prompt))


@pytest.mark.parametrize("name", QUANTIZED)
def test_layers_on_disk_are_read_and_counted_as_they_are_stored(
    name: str, quantized_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spilled(*_: object) -> None:
        raise AssertionError("a quantized tensor was converted for the disk")

    monkeypatch.setattr(SpillFolder, "_spilled", spilled)
    architecture, _ = QUANTIZED[name]
    folder = quantized_folder(name)
    with engine_of(architecture, folder, dtype=torch.bfloat16) as engine:
        greedy(engine.model, ALONE)
        memory = engine.memory()
        layers = stored_bytes(folder)
        raw = engine.layer_bytes
        assert memory.disk_layers_bytes == sum(layers) < sum(raw)
        assert memory.host_layers_bytes == 0
        # Two slots of stored layers, and one that they are expanded to.
        assert memory.host_ring_bytes == 2 * max(layers) + max(raw)


@pytest.mark.parametrize("name", QUANTIZED)
def test_progress_counts_the_bytes_that_are_read(
    name: str, quantized_folder: Callable[[str], Path]
) -> None:
    architecture, _ = QUANTIZED[name]
    folder = quantized_folder(name)
    model = build_skeleton(folder, torch.bfloat16, CPU, architecture.kind)
    tiers: tuple[LayerTier, ...] = ("host", "disk", "host", "host", "disk")
    engine = WeightEngine(
        model,
        folder,
        device=CPU,
        placement=LayerPlacement(tiers),
        streaming=StreamingPlan(device_slots=2),
    )
    seen: list[tuple[int, int]] = []
    try:
        engine.load(lambda done, total: seen.append((done, total)), threading.Event())
        other = engine.memory().host_other_bytes
    finally:
        engine.close()
    kept = [size for size, tier in zip(stored_bytes(folder), tiers, strict=True) if tier == "host"]
    assert seen[0][0] == 0
    assert seen[-1] == (sum(kept) + other, sum(kept) + other)


@pytest.mark.parametrize("streaming", [StreamingPlan(device_slots=2), SINGLE_EXPERTS])
@pytest.mark.parametrize("name", QUANTIZED)
def test_layers_change_their_tier_and_keep_their_weights(
    name: str, streaming: StreamingPlan, quantized_folder: Callable[[str], Path]
) -> None:
    architecture, method = QUANTIZED[name]
    folder = quantized_folder(name)
    wanted = greedy(expanded(folder, method, torch.bfloat16), PADDED)
    with engine_of(architecture, folder, dtype=torch.bfloat16, streaming=streaming) as engine:
        for tiers in (*PLACEMENTS.values(), PLACEMENTS["on disk"]):
            assert engine.rebalance(LayerPlacement(tiers)).tiers == tiers
            assert torch.equal(greedy(engine.model, PADDED), wanted)


def test_a_tensor_that_only_transformers_expands_takes_its_way_and_is_told(
    tmp_path: Path,
) -> None:
    architecture, method = QUANTIZED["fp8 llama"]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for number in (0, 3):
        name = f"model.layers.{number}.mlp.up_proj.weight_scale_inv"
        tensors[name] = torch.randint(120, 126, tensors[name].shape).to(torch.uint8)
    save_file(tensors, path, metadata={"format": "pt"})
    wanted = greedy(expanded(folder, method, torch.bfloat16), PADDED)
    for tiers in PLACEMENTS.values():
        with engine_of(architecture, folder, dtype=torch.bfloat16, tiers=tiers) as engine:
            assert torch.equal(greedy(engine.model, PADDED), wanted)
            assert engine.notes == [
                "2 quantized tensors of its layers are expanded when they are loaded: only "
                "transformers knows their format."
            ]


def stored_bytes(folder: Path) -> tuple[int, ...]:
    """Bytes of each layer as it is stored, each tensor aligned."""
    model = build_skeleton(folder, torch.bfloat16, CPU, "causal-lm")
    recipes = recipes_for(model, CheckpointIndex.of(folder)).values()
    forms = [StoredForm.of(LayerLayout.of(f"model.layers.{n}", recipes)) for n in range(5)]
    return tuple(form.size_bytes for form in forms if form is not None)


@pytest.mark.parametrize("name", QUANTIZED)
def test_all_weights_have_the_dtype_that_was_asked_for(
    name: str, quantized_folder: Callable[[str], Path]
) -> None:
    architecture, method = QUANTIZED[name]
    folder = quantized_folder(name)
    whole = expanded(folder, method, torch.bfloat16).state_dict()
    with engine_of(architecture, folder, dtype=torch.float32, tiers=("host",) * 5) as engine:
        state = engine.model.state_dict()
        assert {value.dtype for value in state.values()} == {torch.float32}
        for key, value in state.items():
            torch.testing.assert_close(value.to(torch.bfloat16), whole[key], rtol=8e-3, atol=1e-5)


def test_a_model_whose_quantization_is_forgotten_is_plain(
    quantized_folder: Callable[[str], Path],
) -> None:
    model = build_skeleton(quantized_folder("fp8 llama"), torch.bfloat16, CPU, "causal-lm")
    assert getattr(model, "hf_quantizer", None) is not None
    forget_quantization(model)
    assert getattr(model, "hf_quantizer", None) is None
    assert getattr(model.config, "quantization_config", None) is None
    assert not model.is_quantized
    forget_quantization(model)


def test_a_method_that_cannot_be_expanded_is_refused(tmp_path: Path) -> None:
    folder = save_lively(FP8_LLAMA, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    stated = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    with pytest.raises(SpecializationLoadError, match="quantized with gptq; mxfp4 and fp8"):
        build_skeleton(folder, torch.bfloat16, CPU, "causal-lm")
