"""What was read is kept while it is among the most used, within the bytes given."""

from __future__ import annotations

import pytest
import torch

from ollm_widgets.weights.experts.admission import AdmittingCache
from ollm_widgets.weights.experts.sources import HostExperts, stacked_bytes

CPU = torch.device("cpu")


def layer(experts: int) -> HostExperts:
    return HostExperts(
        {
            "up": torch.arange(experts * 6, dtype=torch.float32).view(experts, 2, 3),
            "down": torch.arange(experts * 3, dtype=torch.bfloat16).view(experts, 3),
        }
    )


def room(source: HostExperts, experts: int) -> int:
    return experts * stacked_bytes(source.tensors, 1)


def test_experts_that_were_read_are_kept_until_others_are_clearly_more_used() -> None:
    source = layer(5)
    cache = AdmittingCache([source], room(source, 2), CPU)

    def use(expert: int) -> bool:
        held = cache.find(0, expert)
        if held is None:
            cache.offer(0, expert, {name: t[expert] for name, t in source.stacked.items()})
            return False
        for name, stacked in source.stacked.items():
            assert torch.equal(held[name][0], stacked[expert])
        return True

    # A cycle over more experts than fit: the fixed set goes on hitting, where the least recently
    # used one would always be the next.
    assert sum(use(step % 5) for step in range(50)) == 2 * 9
    assert [use(4) for _ in range(12)][-1]
    assert sum(use(expert) for expert in (0, 1)) == 1


def test_uses_halve_so_that_a_new_subject_can_take_over() -> None:
    source = layer(3)
    cache = AdmittingCache([source], room(source, 1), CPU, half_life=8)
    parts = {name: stacked[0] for name, stacked in source.stacked.items()}
    for _ in range(40):
        cache.find(0, 0)
        cache.offer(0, 0, parts)
    wanted = 0
    while cache.find(0, 1) is None:
        cache.offer(0, 1, parts)
        wanted += 1
    assert wanted < 16


def test_a_copy_that_fails_leaves_nothing_to_be_found() -> None:
    source = layer(3)
    cache = AdmittingCache([source], room(source, 1), CPU)
    assert cache.find(0, 1) is None
    with pytest.raises(KeyError):
        cache.offer(0, 1, {"up": source.stacked["up"][1]})
    assert cache.find(0, 1) is None
    cache.offer(0, 1, {name: stacked[1] for name, stacked in source.stacked.items()})
    assert cache.find(0, 1) is not None


def test_a_cache_without_room_holds_nothing() -> None:
    source = layer(3)
    cache = AdmittingCache([source], 7, CPU)
    assert cache.capacity == 0
    cache.offer(0, 1, {name: stacked[1] for name, stacked in source.stacked.items()})
    assert cache.find(0, 1) is None
    assert cache.size_bytes == 0
