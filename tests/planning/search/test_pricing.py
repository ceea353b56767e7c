from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import DeviceKind, LayerTier
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.search.kinds import kinds_of
from ollm_widgets.planning.search.objective import speeds_for
from ollm_widgets.planning.search.pricing import priced
from ollm_widgets.planning.search.rings import buffers_of
from ollm_widgets.planning.speed.step import step_seconds
from ollm_widgets.planning.speed.work import step_work
from tests.planning.search.layers import MIB, SPEEDS, sizes_of


@given(
    st.integers(0, 2**32),
    st.sampled_from(["cuda", "cpu"]),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1.5),
)
def test_a_price_is_what_the_formula_says_of_any_placement(
    seed: int, kind: DeviceKind, packed: bool, with_experts: bool, hit_share: float
) -> None:
    chance = Random(seed)
    pool = [chance.randrange(MIB, 400 * MIB) for _ in range(3)]
    layers = tuple(chance.choices(pool, k=chance.randint(2, 12)))
    sizes = sizes_of(layers, tuple(size // 2 for size in layers) if with_experts else ())
    own: LayerTier = "host" if kind == "cpu" else "accelerator"
    choices: list[LayerTier] = [own, "disk"] if kind == "cpu" else [own, "host", "disk"]
    tiers: list[LayerTier] = [chance.choice(choices) for _ in layers]
    tiers[0] = "disk"
    streaming = replace(buffers_of(sizes), device_slots=2, packed=packed and kind == "cuda")
    kinds = kinds_of(sizes)
    price = priced(sizes, kinds, kind, streaming, SPEEDS[kind])
    kept = [sum(tiers[index] == own for index in each.indices) for each in kinds]
    on_disk = [sum(tiers[index] == "disk" for index in each.indices) for each in kinds]
    streamed = [index for index, tier in enumerate(tiers) if tier != own]
    in_experts = sum(sizes.expert_bytes[index] for index in streamed) if with_experts else 0
    cache = min(int(hit_share * in_experts), in_experts)
    run = PlannedRun(
        kind, LayerPlacement(tuple(tiers)), replace(streaming, expert_cache_bytes=cache)
    )
    said = step_seconds(step_work(sizes, run), SPEEDS[kind])
    share = cache / in_experts if in_experts else 0.0
    none = [0] * len(kinds) if kind == "cpu" else on_disk
    work = price.work(kept, none, hit_share=share)
    # Each layer's share of experts is rounded to whole bytes.
    assert price.seconds(work) == pytest.approx(said, rel=1e-6)
    least_s, files = price.least(kept, none, hit_share=share, page_cached=False)
    assert least_s <= price.seconds(work) * (1 + 1e-9)
    assert files <= work.disk_bytes + 1


@pytest.mark.parametrize("kind", ["cuda", "cpu", "mps"])
def test_what_was_not_measured_has_a_nominal_speed_and_what_was_counts(kind: DeviceKind) -> None:
    nominal = speeds_for(kind, None)
    assert nominal.disk_bytes_per_s
    assert nominal.page_cache_bytes_per_s
    assert (nominal.host_to_device_bytes_per_s is None) == (kind != "cuda")
    known = speeds_for(kind, Bandwidth(7e12, 8e14, disk_bytes_per_s=1e9))
    assert (known.read_bytes_per_s, known.disk_bytes_per_s) == (7e12, 1e9)
    # Predictions take the disk for a page cache of unknown speed, and so do placements.
    assert known.page_cache_bytes_per_s == 1e9
    assert known.host_to_device_bytes_per_s == nominal.host_to_device_bytes_per_s
