"""How a KV cache's capacity is divided between the tiers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DeepseekV3Config, LlamaConfig

from ollm_widgets.kv.attention.room import KVTiers, PageRoom, page_shape, room_for
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs.page import PageShape

PAGE = PageShape(1, 8, 64, 128, 128, torch.bfloat16)
GIB = 2**30


def room(tokens: int, accelerator: int | None, host: int | None = None) -> PageRoom | str:
    return room_for(PAGE, 32, tokens, KVTiers(KVBudget(accelerator, host)), staged=True)


def test_without_a_bound_everything_stays_on_the_device() -> None:
    found = room(32768, None)
    assert isinstance(found, PageRoom)
    assert found.all_hot
    assert found.ring_pages == 512
    assert room(32768, 4 * GIB) == found


def test_what_is_beyond_the_budget_goes_to_host_memory() -> None:
    found = room(32768, GIB)
    assert isinstance(found, PageRoom)
    assert not found.all_hot
    held = found.ring_pages * 32 * PAGE.raw_bytes + 4 * found.staging_bytes
    assert held + 512 * PAGE.raw_bytes <= GIB
    assert found.staging_bytes == 16 * 2**20


def test_too_little_memory_is_a_reason_with_numbers() -> None:
    assert room(32768, 2**20) == (
        "32768 tokens need 224 MiB on the accelerator, one layer in flight included; the KV cache "
        "may take 1 MiB"
    )
    reason = room(32768, GIB, 2**20)
    assert isinstance(reason, str)
    assert reason.endswith("do not fit the 1 MiB of host memory that the KV cache may take")


@given(
    tokens=st.integers(1, 20_000),
    budget=st.integers(0, 2 * GIB),
    steps=st.lists(st.integers(1, 3000), max_size=20),
)
def test_the_ring_holds_what_is_not_cold(tokens: int, budget: int, steps: list[int]) -> None:
    found = room(tokens, budget)
    if isinstance(found, str):
        return
    count = cold = 0
    for step in steps:
        count = min(count + step, tokens)
        cold = found.cold_after(count, cold)
        assert cold * 64 <= count
        assert found.has_slot(count, cold)
        # Steps go on from there, one page leaving for each that is written.
        assert not found.is_full(count, cold)


@pytest.mark.parametrize(
    ("config", "widths", "heads"),
    [
        (LlamaConfig(num_attention_heads=32, num_key_value_heads=8), (128, 128), 8),
        (LlamaConfig(num_attention_heads=32, head_dim=80), (80, 80), 32),
        (DeepseekV3Config(), (192, 128), 128),
    ],
)
def test_the_shape_of_a_page_is_told_by_the_config(
    config: LlamaConfig, widths: tuple[int, int], heads: int
) -> None:
    found = page_shape(config, 2, torch.float16)
    assert found is not None
    assert (found.key_width, found.value_width) == widths
    assert (found.batch, found.heads, found.tokens) == (2, heads, 64)
