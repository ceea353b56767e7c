from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.speed.prediction import predict_speed
from ollm_widgets.planning.speed.wires import unmeasured_wires

Predict = Callable[..., SpeedPrediction | None]


@pytest.fixture(scope="session")
def predict(llama: Any, h200: Bandwidth, running: Callable[..., PlannedRun]) -> Predict:
    def predict(
        where: dict[str, Any], speeds: Bandwidth = h200, model: Any = llama, **asked: Any
    ) -> SpeedPrediction | None:
        return predict_speed(
            model.sizes,
            model.shape,
            "bfloat16",
            speeds,
            run=running(**where),
            **{"context_tokens": 8192, **asked},
        )

    return predict


def test_a_prompt_of_512_tokens_is_predicted_for_or_of_the_context_if_that_is_shorter(
    predict: Predict,
) -> None:
    assert predict({"accelerator": 32}).prompt_tokens == 512
    assert predict({"accelerator": 32}, context_tokens=100).prompt_tokens == 100
    assert predict({"accelerator": 32}, prompt_tokens=7000).prompt_tokens == 7000


def test_without_a_cache_each_token_costs_a_pass_over_all_before_it(predict: Predict) -> None:
    kept = predict({"accelerator": 32}, prompt_tokens=4000)
    made = predict({"accelerator": 32}, prompt_tokens=4000, use_cache=False)
    assert made.seconds_per_token == made.time_to_first_token_s == kept.time_to_first_token_s
    assert made.seconds_per_token > 2 * kept.seconds_per_token
    assert made.token_parts == made.first_token_parts
    assert made.why.startswith("Without a KV cache each token costs a whole pass.")


def test_generate_of_transformers_costs_more_between_tokens(predict: Predict) -> None:
    ours = predict({"accelerator": 32})
    theirs = predict({"accelerator": 32}, generic=True)
    assert 0.005 < theirs.seconds_per_token - ours.seconds_per_token < 0.02


@pytest.mark.parametrize(
    ("where", "lacking", "named"),
    [
        ({"host": 32}, {"host_to_device_bytes_per_s"}, "the wire to the accelerator"),
        ({"disk": 32, "read_direct": True}, {"disk_bytes_per_s"}, "the disk"),
        ({"disk": 32}, {"disk_bytes_per_s", "page_cache_bytes_per_s"}, "the disk"),
        ({"kind": "cpu", "disk": 32, "read_direct": True}, {"disk_bytes_per_s"}, "the disk"),
        (
            {"disk": 32, "read_direct": True},
            {"disk_bytes_per_s", "host_to_device_bytes_per_s"},
            "the wire to the accelerator and of the disk",
        ),
    ],
)
def test_nothing_is_predicted_over_a_wire_of_unknown_speed_and_it_is_named(
    where: dict[str, Any],
    lacking: set[str],
    named: str,
    predict: Predict,
    llama: Any,
    h200: Bandwidth,
    running: Callable[..., PlannedRun],
) -> None:
    speeds = replace(h200, **dict.fromkeys(lacking))
    assert predict(where) is not None
    assert predict(where, speeds) is None
    assert unmeasured_wires(llama.sizes, speeds, running(**where)) == named
    assert unmeasured_wires(llama.sizes, h200, running(**where)) == ""


def test_a_wire_that_nothing_crosses_need_not_be_known(predict: Predict) -> None:
    assert predict({"accelerator": 32}, Bandwidth(4e12, 7e14)) is not None
    assert predict({"kind": "cpu", "host": 32}, Bandwidth(2e10, 2e11)) is not None


def test_layers_that_the_page_cache_holds_do_not_need_the_disk(
    predict: Predict, h200: Bandwidth
) -> None:
    without_disk = replace(h200, disk_bytes_per_s=None)
    made = predict({"disk": 32}, without_disk)
    assert made.seconds_per_token == pytest.approx(0.531, rel=0.01)
    assert made.bound_by == "the page cache"


def test_cold_pages_on_disk_need_its_speed(predict: Predict, h200: Bandwidth) -> None:
    kv = KVPlan("chunked", "explicit", "", device_budget_bytes=1)
    resident = {"accelerator": 32}
    assert predict(resident, replace(h200, disk_bytes_per_s=None), kv=kv) is None
    made = predict(resident, kv=kv)
    assert made.bound_by == "the disk"
    assert made.seconds_per_token == pytest.approx(512 * 131_072 / 1.66e9, rel=0.01)


def test_what_bounds_a_token_is_the_slowest_of_its_parts(predict: Predict) -> None:
    resident = predict({"accelerator": 32, "captured_steps": True})
    assert resident.bound_by == "the accelerator's memory"
    assert predict({"accelerator": 32}).bound_by == "calls by Python"
    assert predict({"host": 32, "captured_steps": True}).bound_by == "the wire to the accelerator"
    on_cpu = predict({"kind": "cpu", "host": 32}, Bandwidth(2e10, 2e11))
    assert on_cpu.bound_by == "memory"
    long = predict({"accelerator": 32}, prompt_tokens=8000)
    slowest = max(long.first_token_parts, key=lambda part: part.seconds)
    assert slowest.name == "matrix products"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"accelerator": 32, "captured_steps": True}, "Each token reads 15.1 GB at the 4.2 TB/s"),
        ({"accelerator": 32}, "Calls by Python take 37 ms a token"),
        ({"host": 32}, "14.0 GB a token cross the wire to the accelerator at 54.5 GB/s"),
        ({"disk": 32}, "14.0 GB a token come from the page cache at 26.3 GB/s"),
        ({"disk": 32, "read_direct": True}, "14.0 GB a token come from the disk at 1.7 GB/s"),
    ],
)
def test_why_says_what_bounds_a_token_in_numbers(
    where: dict[str, Any], said: str, predict: Predict
) -> None:
    assert predict(where).why.startswith(said)


def test_why_says_what_is_assumed_and_what_is_left_out(
    predict: Predict, mixture: Any, h200: Bandwidth
) -> None:
    cache = sum(mixture.sizes.expert_bytes) // 4
    where = {"host": 24, "expert_streaming": True, "expert_cache_bytes": cache}
    said = predict(where, model=mixture, text_only=False).why
    assert "Hot experts are taken to be 25% of those chosen" in said
    assert said.endswith("Images and audio are not counted.")
    assert "Hot experts" not in predict({"accelerator": 24}, model=mixture).why


def test_a_load_is_predicted_only_where_the_files_are_here(predict: Predict) -> None:
    assert predict({"accelerator": 32}).load == ()
    assert predict({"accelerator": 32}).load_s is None
    made = predict({"accelerator": 32}, file_room_bytes=10**11)
    assert made.load_s > 9
    assert "1.0 s while the page cache holds them" in made.why
    # Files that the page cache cannot hold come from the disk each time.
    assert "while the page cache" not in predict({"accelerator": 32}, file_room_bytes=10**9).why


@given(st.integers(0, 32), st.integers(0, 32), st.booleans(), st.integers(1, 8000))
def test_more_layers_in_a_faster_tier_never_predict_slower(
    predict: Predict, one: int, other: int, packed: bool, tokens: int
) -> None:
    fewer, more = sorted((one, other))

    def seconds(kept: int, below: str) -> tuple[float, float]:
        where = {"accelerator": kept, below: 32 - kept, "packed": packed, "captured_steps": False}
        made = predict(where, prompt_tokens=tokens)
        return made.seconds_per_token, made.time_to_first_token_s

    for below in ("host", "disk"):
        assert all(a >= b for a, b in zip(seconds(fewer, below), seconds(more, below), strict=True))
    assert all(a >= b for a, b in zip(seconds(fewer, "disk"), seconds(fewer, "host"), strict=True))


@given(st.integers(1, 30_000), st.integers(1, 30_000), st.integers(0, 30_000))
def test_a_longer_prompt_or_history_never_predicts_faster(
    predict: Predict, one: int, other: int, history: int
) -> None:
    def seconds(tokens: int, before: int) -> tuple[float, float]:
        where = {"accelerator": 16, "host": 16, "prefill_chunk_tokens": 2048}
        made = predict(where, prompt_tokens=tokens, history_tokens=before, context_tokens=70_000)
        return made.seconds_per_token, made.time_to_first_token_s

    short, long = sorted((one, other))
    for less, more in (
        (seconds(short, 0), seconds(long, 0)),
        (seconds(short, 0), seconds(short, history)),
    ):
        assert less[0] <= more[0]
        assert less[1] <= more[1]


@given(st.integers(1, 128), st.integers(1, 128), st.integers(0, 10**10), st.integers(0, 10**10))
def test_more_active_experts_or_fewer_hot_ones_never_predict_faster(
    predict: Predict, mixture: Any, one: int, other: int, cache: int, larger: int
) -> None:
    def seconds(active: int, cached: int) -> float:
        expert = mixture.sizes.layer_bytes[0] - mixture.sizes.dense_bytes[0]
        read = 24 * active * expert // 128
        sizes = replace(mixture.sizes, active_experts=active, read_per_token_bytes=read)
        where = {"host": 24, "expert_streaming": True, "expert_cache_bytes": cached}
        return predict(where, model=replace(mixture, sizes=sizes)).seconds_per_token

    few, many = sorted((one, other))
    small, large = sorted((cache, larger))
    assert seconds(few, small) <= seconds(many, small)
    assert seconds(few, large) <= seconds(few, small)
