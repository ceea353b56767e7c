"""Layers on several devices: what a layer is given follows it, and the tokens stay the same.

torch counts ``cpu`` and ``cpu:0`` as two devices, so the crossing can be walked without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.weights.crossing import DeviceCrossing
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    BATCHES,
    DECODERS,
    LAYERS,
    MIXTURES,
    engine_of,
    greedy,
    whole,
)

FolderOf = Callable[[Architecture], Path]
HERE, THERE = "cpu", "cpu:0"
SPREADS = {
    "in turn": (HERE, THERE, HERE, THERE, HERE),
    "in runs": (HERE, HERE, HERE, THERE, THERE),
    "all elsewhere": (THERE,) * LAYERS,
}
TIERS = ("host", "disk", "disk", "disk", "disk")


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_tokens_are_those_of_one_device(
    architecture: Architecture, folder_of: FolderOf, spread: str
) -> None:
    folder = folder_of(architecture)
    wanted = whole(architecture, folder, torch.float32)
    devices = SPREADS[spread]
    with engine_of(architecture, folder, tiers=TIERS, devices=devices) as engine:
        assert engine.placement == LayerPlacement(TIERS, devices)
        assert not engine.arranged.capturable
        for prompt in BATCHES.values():
            assert torch.equal(greedy(engine.model, prompt), greedy(wanted, prompt))


@pytest.mark.parametrize("architecture", MIXTURES[:2], ids=str)
def test_layers_keep_their_device_when_they_move_to_another_tier(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    folder = folder_of(architecture)
    prompt = BATCHES["one"]
    wanted = greedy(whole(architecture, folder, torch.float32), prompt)
    devices = SPREADS["in turn"]
    with engine_of(architecture, folder, tiers=TIERS, devices=devices) as engine:
        moved = engine.rebalance(LayerPlacement(("disk", "host", "host", "disk", "host")))
        assert moved.devices == devices
        assert torch.equal(greedy(engine.model, prompt), wanted)


class Noting(nn.Module):
    """Passes its input on, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = []

    def forward(
        self, hidden: torch.Tensor, *, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, None]:
        self.given.append((hidden, rotary))
        return hidden, None


def test_what_all_layers_share_crosses_once_a_pass() -> None:
    layers = [Noting() for _ in range(4)]
    meta, home = torch.device("meta"), torch.device("cpu")
    crossing = DeviceCrossing(layers, [home, meta, meta, meta], home=meta)
    hidden, rotary = torch.zeros(1, 2, 4), (torch.ones(2), torch.ones(2))
    for _ in range(2):
        passed = hidden
        for layer in layers:
            passed, _nothing = layer(passed, rotary=rotary)
    for number in range(2):
        crossed = [layer.given[number][1][0] for layer in layers[1:]]
        assert all(each is crossed[0] and each.device == meta for each in crossed)
    assert layers[0].given[0][1][0] is rotary[0]
    assert layers[1].given[0][1][0] is not layers[1].given[1][1][0]
    crossing.remove()
    assert layers[2](hidden, rotary=rotary)[0] is hidden
