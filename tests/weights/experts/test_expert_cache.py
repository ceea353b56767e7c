"""The table leads to the experts that are used most, near or far."""

from __future__ import annotations

import ctypes

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.weights.experts.cache import AddressedCache
from ollm_widgets.weights.experts.sources import HostExperts, stacked_bytes
from ollm_widgets.weights.experts.traffic import ExpertTraffic

CPU = torch.device("cpu")


def layers(*experts: int) -> list[HostExperts]:
    return [
        HostExperts(
            {
                "up": torch.arange(count * 6, dtype=torch.float32).view(count, 2, 3) + 1000 * n,
                "down": torch.arange(count * 3, dtype=torch.bfloat16).view(count, 3) + 10 * n,
            }
        )
        for n, count in enumerate(experts)
    ]


def slot_bytes(sources: list[HostExperts]) -> int:
    return stacked_bytes(sources[0].tensors, 1)


def cached(cache: AddressedCache, sources: list[HostExperts]) -> set[tuple[int, int]]:
    """The experts whose addresses are not those of host memory; checks that all are right."""
    found = set()
    for layer, source in enumerate(sources):
        for number, tensor in enumerate(source.tensors):
            stacked = source.stacked[tensor.name]
            for expert in range(source.experts):
                address = int(cache.table(layer)[number, expert])
                data = ctypes.string_at(address, tensor.row_bytes)
                assert data == stacked[expert].contiguous().view(torch.uint8).numpy().tobytes()
                if address != stacked[expert].data_ptr():
                    found.add((layer, expert))
    return found


def test_the_most_used_experts_of_all_layers_come_near() -> None:
    sources = layers(4, 6)
    cache = AddressedCache(sources, 3 * slot_bytes(sources) + 5, CPU)
    assert cache.capacity == 3
    cache.usage(0).copy_(torch.tensor([0, 9, 1, 0]))
    cache.usage(1).copy_(torch.tensor([0, 0, 0, 5, 0, 7]))
    assert cached(cache, sources) == set()
    assert cache.rebalance() == 3
    assert cached(cache, sources) == {(0, 1), (1, 3), (1, 5)}
    assert not cache.usage(0).any()


def test_old_uses_fade_and_a_small_lead_replaces_nothing() -> None:
    sources = layers(4)
    cache = AddressedCache(sources, slot_bytes(sources), CPU, decay=0.5)
    cache.usage(0)[0] = 8
    cache.rebalance()
    cache.usage(0)[1] = 4  # as many as are left of the 8, which loyalty makes five of
    assert cache.rebalance() == 0
    assert cached(cache, sources) == {(0, 0)}
    cache.usage(0)[1] = 3  # and the two that are left: five against two and a half
    assert cache.rebalance() == 1
    assert cached(cache, sources) == {(0, 1)}


def test_what_prompts_saw_counts_and_numbers_for_no_expert_do_not() -> None:
    sources = layers(3, 8)
    cache = AddressedCache(sources, 2 * slot_bytes(sources), CPU)
    cache.seen(0)[3] = 99  # one past the last expert of its layer
    cache.seen(1)[7] = 2
    assert cache.rebalance() == 1
    assert cached(cache, sources) == {(1, 7)}


def test_no_more_move_at_once_than_was_asked() -> None:
    sources = layers(6)
    cache = AddressedCache(sources, 6 * slot_bytes(sources), CPU)
    cache.usage(0).copy_(torch.tensor([1, 2, 3, 4, 5, 6]))
    assert cache.rebalance(at_most=2) == 2
    assert cached(cache, sources) == {(0, 4), (0, 5)}
    assert cache.rebalance() == 4


def test_hits_and_misses_are_counted_against_what_was_near() -> None:
    sources = layers(4)
    cache = AddressedCache(sources, slot_bytes(sources), CPU)
    row_bytes = 6 * 4 + 3 * 2
    cache.usage(0).copy_(torch.tensor([3, 1, 0, 0]))
    assert cache.traffic() == ExpertTraffic(0, 4, 4 * row_bytes)
    cache.rebalance()
    assert cache.traffic() == ExpertTraffic(0, 4, 5 * row_bytes)
    cache.usage(0).copy_(torch.tensor([3, 1, 0, 0]))
    assert cache.traffic() == ExpertTraffic(3, 5, 6 * row_bytes)


@settings(max_examples=50)
@given(
    capacity=st.integers(0, 12),
    uses=st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=12), max_size=6
    ),
)
def test_the_table_always_leads_to_the_right_expert(
    capacity: int, uses: list[list[tuple[int, int]]]
) -> None:
    sources = layers(5, 5)
    cache = AddressedCache(sources, capacity * slot_bytes(sources), CPU)
    for step in uses:
        for layer, expert in step:
            cache.usage(layer)[expert] += 1
        cache.rebalance()
        assert len(cached(cache, sources)) <= capacity


def test_a_cache_without_room_holds_nothing_and_counts_all_the_same() -> None:
    sources = layers(3)
    cache = AddressedCache(sources, 7, CPU)
    cache.usage(0)[1] = 2
    assert cache.rebalance() == 0
    assert cache.traffic().misses == 2


def test_layers_of_several_sizes_share_one_cache() -> None:
    small = layers(4)
    large = HostExperts({"gate_up_proj": torch.rand(3, 700), "bias": torch.rand(3, 5)})
    sources = [*small, large]
    size = stacked_bytes(large.tensors, 1)
    cache = AddressedCache(sources, 4 * size, CPU)
    cache.usage(0)[2] = 4
    cache.usage(1).copy_(torch.tensor([3, 0, 5]))
    assert cache.rebalance() == 3
    assert cached(cache, sources) == {(0, 2), (1, 0), (1, 2)}
    assert cache.device_bytes >= 4 * size
    cache.close()
    assert cache.device_bytes == 0
