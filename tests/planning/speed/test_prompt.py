from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.prompt import prompt_seconds, prompt_work

lengths = st.integers(1, 50_000)
placements = st.sampled_from(
    [
        {"accelerator": 32},
        {"host": 32, "packed": True},
        {"accelerator": 8, "host": 12, "disk": 12, "prefill_chunk_tokens": 1024},
        {"kind": "cpu", "host": 20, "disk": 12, "prefill_chunk_tokens": 256},
    ]
)


def pairs_of(shape: ModelShape, tokens: int, history: int, window: int | None = None) -> int:
    """Count what each token of a prompt sees, one by one."""
    kinds = shape.layer_types
    seen = 0
    for layer in range(shape.layers):
        kind = kinds[layer] if kinds else "full_attention"
        own = window if kind == "full_attention" else shape.sliding_window
        if kinds is None and shape.sliding_window is not None:
            own = min(shape.sliding_window, window or shape.sliding_window)
        if kind == "linear_attention":
            continue
        for token in range(history + 1, history + tokens + 1):
            seen += token if own is None else min(token, own)
    return seen


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 50),
    st.none()
    | st.tuples(
        *[st.sampled_from(["full_attention", "sliding_attention", "linear_attention"])] * 3
    ),
)
def test_a_token_sees_its_history_and_sliding_layers_their_window(
    llama: Any,
    running: Callable[..., PlannedRun],
    tokens: int,
    history: int,
    window: int | None,
    sliding: int | None,
    kinds: tuple[str, ...] | None,
) -> None:
    shape = replace(llama.shape, layers=3, sliding_window=sliding, layer_types=kinds)
    work = prompt_work(
        llama.sizes,
        shape,
        "bfloat16",
        running(accelerator=32),
        tokens,
        history_tokens=history,
        window_tokens=window,
    )
    assert work.attention_operations == 4 * 4096 * pairs_of(shape, tokens, history, window)


@given(lengths, lengths, placements)
def test_a_longer_prompt_never_takes_less(
    llama: Any,
    h200: Bandwidth,
    running: Callable[..., PlannedRun],
    one: int,
    other: int,
    where: dict[str, Any],
) -> None:
    def seconds(tokens: int) -> float:
        work = prompt_work(llama.sizes, llama.shape, "bfloat16", running(**where), tokens)
        return prompt_seconds(work, h200).total

    assert seconds(min(one, other)) <= seconds(max(one, other))


@given(lengths, lengths)
def test_more_history_never_takes_less(
    llama: Any, h200: Bandwidth, running: Callable[..., PlannedRun], tokens: int, history: int
) -> None:
    def seconds(before: int) -> float:
        run = running(accelerator=32)
        work = prompt_work(llama.sizes, llama.shape, "bfloat16", run, tokens, history_tokens=before)
        return prompt_seconds(work, h200).total

    assert seconds(0) <= seconds(history)


def test_layers_cross_once_and_each_chunk_reads_them_again(
    llama: Any, running: Callable[..., PlannedRun]
) -> None:
    def asked(tokens: int) -> Any:
        run = running(host=32, prefill_chunk_tokens=1000)
        return prompt_work(llama.sizes, llama.shape, "bfloat16", run, tokens)

    short, long = asked(1000), asked(3500)
    assert long.pass_work.wire_bytes == short.pass_work.wire_bytes == llama.sizes.layers_bytes
    assert short.weight_bytes == llama.sizes.layers_bytes
    assert long.weight_bytes == 4 * short.weight_bytes
    assert long.operations == 2 * llama.sizes.parameters_per_token * 3500


def test_logits_are_made_for_the_last_row_only(
    llama: Any, running: Callable[..., PlannedRun]
) -> None:
    def beside(tokens: int) -> int:
        run = running(accelerator=32)
        work = prompt_work(llama.sizes, llama.shape, "bfloat16", run, tokens)
        return work.pass_work.read_bytes

    head = llama.sizes.embeddings_bytes // 2
    assert beside(1000) - head == 1000 * (beside(1) - head)


@pytest.mark.parametrize(("tokens", "share"), [(1, 8 / 128), (2, 0.121), (64, 0.984), (512, 1.0)])
def test_a_prompt_reads_the_experts_that_its_tokens_choose(
    tokens: int, share: float, mixture: Any, running: Callable[..., PlannedRun]
) -> None:
    sizes = mixture.sizes
    work = prompt_work(sizes, mixture.shape, "bfloat16", running(accelerator=24), tokens)
    experts = work.weight_bytes - sum(sizes.dense_bytes)
    assert experts / sum(sizes.expert_bytes) == pytest.approx(share, rel=0.01)


def test_whole_layers_of_experts_come_once_a_prompt_may_choose_more_than_there_is_room_for(
    mixture: Any, running: Callable[..., PlannedRun]
) -> None:
    run = running(host=24, expert_streaming=True, expert_slots=16)

    def crossing(tokens: int) -> int:
        work = prompt_work(mixture.sizes, mixture.shape, "bfloat16", run, tokens)
        return work.pass_work.wire_bytes

    assert crossing(3) == mixture.sizes.layers_bytes
    assert crossing(2) < 0.1 * crossing(3)


def test_without_dimensions_only_products_and_wires_count(
    llama: Any, h200: Bandwidth, running: Callable[..., PlannedRun]
) -> None:
    work = prompt_work(llama.sizes, None, "bfloat16", running(accelerator=32), 100_000)
    seconds = prompt_seconds(work, h200)
    assert seconds.attention == 0
    assert seconds.products == pytest.approx(2 * 32 * 218_112_000 * 100_000 / 7e14)
