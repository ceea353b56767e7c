"""Models that see, on an accelerator: captured steps beside them, layers that stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from tests.runtime.seeing_models import (
    NEW_TOKENS,
    SEEING,
    SeeingModel,
    answered,
    asking,
    picture,
    save_seeing,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHORT = GenerationConfig(max_new_tokens=NEW_TOKENS)
WAYS: dict[str, dict[str, Any]] = {
    "generic": {"backend": "transformers-generic"},
    "resident": {"backend": "optimized-native"},
    "streamed": {"backend": "optimized-native", "offload_gpu_layers": 1, "offload_cpu_layers": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", SEEING, ids=str)
def test_an_answer_is_that_of_the_same_model_by_transformers(
    model: SeeingModel, way: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    folder = save_seeing(model, tmp_path / "model")
    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    torch.nn.Module.to(whole, "cuda")
    config = RuntimeConfig(folder, device="cuda", dtype="float32", multimodal=True, **WAYS[way])
    with RuntimeLoader().load(config) as runtime:
        for messages in (
            asking("w5 w6", picture(1), "w9"),
            asking("w5 w6 w7"),
            asking("w5 w6", picture(2), "w9"),
        ):
            ids = answered(whole.eval(), runtime.processor, messages)
            text = runtime.tokenizer.decode(ids[0], skip_special_tokens=True)
            assert runtime.complete(messages, SHORT).text == text
