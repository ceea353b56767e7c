"""Quantized checkpoints in the engine: the same tokens as transformers makes of plain weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import StreamingPlan
from ollm_widgets.weights.model.expanding import forget_quantization
from ollm_widgets.weights.model.skeleton import build_skeleton
from tests.weights.quantized import FP8_LLAMA, QUANTIZED, expanded, quantize
from tests.weights.streamed_models import BATCHES, CPU, engine_of, greedy, save_lively

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
