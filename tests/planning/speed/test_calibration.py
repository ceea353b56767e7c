"""Predictions against what was measured on one H200: `tests/bench/plan_truth.py` does it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.planning.ids import KVCodecId, KVStrategyId
from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.speed.prediction import predict_speed

GRAPH = {"captured_steps": True}
RESIDENT = {"accelerator": 32, **GRAPH}
STREAMED = {"device_slots": 4, "slot_bytes": 436_224_000}
HOST_RAW = {"host": 32, **STREAMED, **GRAPH}
HOST_PACKED = {**HOST_RAW, "packed": True}
HALF = {**HOST_PACKED, "accelerator": 16, "host": 16}
IN_12GIB = {**HOST_PACKED, "accelerator": 20, "host": 12}
PAGE_CACHE = {"disk": 32, "staging_slots": 6, **STREAMED}
MIXTURE = {"accelerator": 24, **GRAPH}
# As it was planned for 6 GB: three layers stay, and 400 MB of the other layers' experts.
MIXTURE_6GB = {
    "accelerator": 3,
    "host": 21,
    "device_slots": 3,
    "packed": True,
    "expert_streaming": True,
    "expert_slots": 16,
    "expert_cache_bytes": 400_000_000,
    **GRAPH,
}

# Model, where its layers are, tokens of history, seconds a token, relative error.
TOKENS = {
    "resident": ("llama", RESIDENT, 64, 0.0056, 0.15),
    "resident, 2k of history": ("llama", RESIDENT, 2048, 0.0058, 0.15),
    "resident, 32k of history": ("llama", RESIDENT, 32_768, 0.0072, 0.15),
    "resident, not captured": ("llama", {"accelerator": 32}, 64, 0.035, 0.15),
    "streamed": ("llama", HOST_RAW, 64, 0.2531, 0.05),
    "streamed, packed": ("llama", HOST_PACKED, 64, 0.1915, 0.05),
    "half of the layers streamed": ("llama", HALF, 64, 0.0983, 0.05),
    "12 of 32 layers streamed": ("llama", IN_12GIB, 64, 0.0780, 0.15),
    "from the page cache": ("llama", PAGE_CACHE, 64, 0.5626, 0.15),
    "experts, resident": ("mixture", MIXTURE, 64, 0.0040, 0.15),
    "experts, 6 GB": ("mixture", MIXTURE_6GB, 64, 0.0369, 0.15),
}

# Model, where its layers are, tokens of the prompt, seconds until the first token.
PROMPTS = {
    "64 tokens, resident": ("llama", RESIDENT, 64, 0.047),
    "2k tokens, resident": ("llama", RESIDENT, 2048, 0.067),
    "32k tokens, resident": ("llama", RESIDENT, 32_768, 1.353),
    "64 tokens, streamed": ("llama", HOST_PACKED, 64, 0.196),
    "8k tokens, streamed": ("llama", {**HOST_PACKED, "prefill_chunk_tokens": 7680}, 8192, 0.266),
    "64 tokens, half streamed": ("llama", HALF, 64, 0.119),
    "64 tokens, 12 of 32 layers streamed": ("llama", IN_12GIB, 64, 0.098),
    "64 tokens, from the page cache": ("llama", PAGE_CACHE, 64, 0.516),
    "experts, 64 tokens": ("mixture", MIXTURE, 64, 0.060),
    "experts, 2k tokens": ("mixture", MIXTURE, 2048, 0.064),
}


@pytest.fixture
def predicted(
    request: pytest.FixtureRequest, timed_h200: Bandwidth, running: Callable[..., PlannedRun]
) -> Callable[..., SpeedPrediction]:
    def predicted(name: str, where: dict[str, Any], **asked: Any) -> SpeedPrediction:
        model = request.getfixturevalue(name)
        made = predict_speed(
            model.sizes,
            model.shape,
            "bfloat16",
            timed_h200,
            run=running(**where),
            **{"context_tokens": 40_960, **asked},
        )
        assert made is not None
        return made

    return predicted


@pytest.mark.parametrize("row", TOKENS)
def test_a_token_takes_what_was_measured(
    row: str, predicted: Callable[..., SpeedPrediction]
) -> None:
    model, where, tokens, measured_s, error = TOKENS[row]
    made = predicted(model, where, prompt_tokens=tokens)
    assert made.seconds_per_token == pytest.approx(measured_s, rel=error)


@pytest.mark.parametrize("row", PROMPTS)
def test_a_prompt_takes_what_was_measured(
    row: str, predicted: Callable[..., SpeedPrediction]
) -> None:
    model, where, tokens, measured_s = PROMPTS[row]
    made = predicted(model, where, prompt_tokens=tokens)
    assert made.time_to_first_token_s == pytest.approx(measured_s, rel=0.25)


@pytest.mark.parametrize(
    ("strategy", "codec", "measured_s"),
    [
        ("paged", None, 0.0748),
        ("quantized-cold-tier", "int8", 0.0397),
        ("quantized-cold-tier", "int4", 0.0222),
    ],
)
def test_cold_pages_cross_the_wire_with_each_token_as_was_measured(
    strategy: KVStrategyId,
    codec: KVCodecId | None,
    measured_s: float,
    predicted: Callable[..., SpeedPrediction],
) -> None:
    kv = KVPlan(
        strategy,
        "explicit",
        "",
        codec=codec,
        device_budget_bytes=512 * 1024**2,
        host_budget_bytes=10**11,
    )
    made = predicted("llama", RESIDENT, prompt_tokens=32_768, kv=kv)
    assert made.seconds_per_token == pytest.approx(measured_s, rel=0.10)
    assert "waits for" in made.why


def test_a_load_takes_what_was_measured_stage_by_stage(
    predicted: Callable[..., SpeedPrediction], h200: Bandwidth, request: pytest.FixtureRequest
) -> None:
    llama = request.getfixturevalue("llama")
    running = request.getfixturevalue("running")
    made = predict_speed(
        llama.sizes,
        llama.shape,
        "bfloat16",
        replace(h200, disk_bytes_per_s=None),
        context_tokens=40_960,
        run=running(**RESIDENT),
        file_room_bytes=10**11,
    )
    assert made is not None
    seconds = {each.stage: each.seconds for each in made.load}
    assert seconds == {
        "Plan": pytest.approx(0.017, rel=0.25),
        "Build": pytest.approx(0.315, rel=0.25),
        "Read weights": pytest.approx(0.594, rel=0.25),
        "Warm up": pytest.approx(0.240, rel=0.25),
    }
    assert made.load_s == pytest.approx(1.17, rel=0.15)
    cold = predicted("llama", RESIDENT, file_room_bytes=10**11)
    assert cold.load_s == pytest.approx(16.06 / 1.3, rel=0.15)
    assert "the page cache holds them" in cold.why
