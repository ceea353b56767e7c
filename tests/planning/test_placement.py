from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.placement import place_layers

policies = st.sampled_from(["auto", "prefix", "suffix", "middle-band"])


@given(st.integers(0, 40), st.integers(0, 40), policies)
def test_every_layer_is_in_one_tier_and_the_counts_are_those_asked(
    gpu: int, cpu: int, policy: OffloadPolicy
) -> None:
    placement = place_layers(80, gpu, cpu, policy)
    assert len(placement.tiers) == 80
    assert (placement.accelerator_layers, placement.host_layers) == (gpu, cpu)
    assert placement.disk_layers == 80 - gpu - cpu


def host(policy: OffloadPolicy) -> list[int]:
    tiers = place_layers(6, 2, 2, policy).tiers
    return [index for index, tier in enumerate(tiers) if tier == "host"]


def test_the_policy_says_which_layers_are_the_hosts() -> None:
    assert host("prefix") == [0, 1]
    assert host("middle-band") == [2, 3]
    assert host("suffix") == host("auto") == [4, 5]


def test_counts_read_as_words() -> None:
    assert place_layers(4, 1, 2, "prefix").summary() == (
        "1 layer on the accelerator, 2 layers in RAM, 1 layer on disk"
    )
    assert place_layers(0, 0, 0).summary() == "not known"


@pytest.mark.parametrize("policy", ["auto", "prefix", "suffix", "middle-band"])
def test_all_layers_in_one_tier_need_no_policy(policy: OffloadPolicy) -> None:
    assert place_layers(5, 5, 0, policy).accelerator_layers == 5
    assert place_layers(5, 0, 5, policy).host_layers == 5
    assert place_layers(5, 0, 0, policy).disk_layers == 5
