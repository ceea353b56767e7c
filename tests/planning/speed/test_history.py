from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import KVCodecId, KVStrategyId
from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.speed.history import HistoryBytes, history_bytes

EACH = 131_072  # bytes of a token of Llama-3.1-8B in bfloat16


def planned(strategy: KVStrategyId, codec: KVCodecId | None = None, **budgets: Any) -> KVPlan:
    return KVPlan(strategy, "explicit", "", codec=codec, **budgets)


def asked(
    llama: Any, tokens: int, kv: KVPlan | None, *, on_accelerator: bool = True, **shape: Any
) -> HistoryBytes:
    return history_bytes(
        replace(llama.shape, **shape),
        "bfloat16",
        tokens,
        kv,
        window_tokens=None,
        on_accelerator=on_accelerator,
    )


def test_a_token_reads_all_keys_and_values_and_of_sliding_layers_the_window(llama: Any) -> None:
    assert asked(llama, 1000, None) == HistoryBytes(1000 * EACH)
    kinds = ("full_attention", "sliding_attention", "sliding_attention", "linear_attention") * 8
    mixed = asked(llama, 1000, None, layer_types=kinds, sliding_window=100)
    assert mixed.read == 8 * (1000 + 2 * 100) * EACH // 32


def test_what_fits_the_budget_moves_nowhere(llama: Any) -> None:
    kv = planned("paged", device_budget_bytes=1000 * EACH, host_budget_bytes=0)
    assert asked(llama, 1000, kv) == HistoryBytes(1000 * EACH)


def test_pages_beyond_the_budget_cross_the_wire_and_those_beyond_host_memory_come_from_disk(
    llama: Any,
) -> None:
    kv = planned("paged", device_budget_bytes=400 * EACH, host_budget_bytes=500 * EACH)
    assert asked(llama, 1000, kv) == HistoryBytes(1000 * EACH, 600 * EACH, 100 * EACH)
    on_cpu = asked(llama, 1000, kv, on_accelerator=False)
    assert on_cpu == HistoryBytes(1000 * EACH, 0, 600 * EACH)


def test_strategies_without_pages_in_host_memory_read_from_disk(llama: Any) -> None:
    kv = planned("chunked", device_budget_bytes=400 * EACH, host_budget_bytes=10**12)
    assert asked(llama, 1000, kv) == HistoryBytes(1000 * EACH, 600 * EACH, 600 * EACH)


@pytest.mark.parametrize(("codec", "share"), [("int8", 0.55), ("int4", 0.30)])
def test_quantized_pages_take_less_on_every_tier(
    codec: KVCodecId, share: float, llama: Any
) -> None:
    kv = planned(
        "quantized-cold-tier", codec, device_budget_bytes=200 * EACH, host_budget_bytes=None
    )
    found = asked(llama, 1000, kv)
    assert found.read == 1000 * EACH
    assert found.over_wire == pytest.approx((1000 * share - 200) * EACH, abs=1)
    assert found.from_disk == 0


@given(
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(0, 2000),
    st.none() | st.integers(0, 2000),
    st.sampled_from(["paged", "chunked", "tiered-write-back", "resident", "quantized-cold-tier"]),
    st.booleans(),
)
def test_a_longer_history_never_moves_less(
    llama: Any,
    one: int,
    other: int,
    device: int,
    host: int | None,
    strategy: KVStrategyId,
    on_accelerator: bool,
) -> None:
    kv = planned(
        strategy,
        "int8" if strategy == "quantized-cold-tier" else None,
        device_budget_bytes=device * EACH,
        host_budget_bytes=None if host is None else host * EACH,
    )
    short = asked(llama, min(one, other), kv, on_accelerator=on_accelerator)
    long = asked(llama, max(one, other), kv, on_accelerator=on_accelerator)
    assert short.read <= long.read
    assert short.over_wire <= long.over_wire
    assert short.from_disk <= long.from_disk
