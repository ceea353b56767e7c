from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DeviceKind, LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.weights import WeightSizes


@dataclass(frozen=True, slots=True)
class Sized:
    """A model as speed sees it: the bytes of its weights and its dimensions."""

    sizes: WeightSizes
    shape: ModelShape


@pytest.fixture(scope="session")
def h200() -> Bandwidth:
    """What one NVIDIA H200 with 16 cores was measured to give."""
    return Bandwidth(
        read_bytes_per_s=4.2e12,
        flops_per_s=7.0e14,
        host_to_device_bytes_per_s=54.5e9,
        disk_bytes_per_s=1.66e9,
        page_cache_bytes_per_s=26.3e9,
        host_copy_bytes_per_s=20e9,
        unpack_bytes_per_s=2.1e12,
        launch_s=10e-6,
        replay_s=1.19e-6,
    )


@pytest.fixture(scope="session")
def timed_h200() -> Bandwidth:
    """The profile that was measured right before the times of `test_calibration.py`."""
    return Bandwidth(
        read_bytes_per_s=3.9e12,
        flops_per_s=7.98e14,
        host_to_device_bytes_per_s=54.9e9,
        disk_bytes_per_s=1.3e9,
        page_cache_bytes_per_s=26.3e9,
        host_copy_bytes_per_s=28.8e9,
        unpack_bytes_per_s=2.0e12,
        launch_s=10.3e-6,
        replay_s=1.0e-6,
    )


@pytest.fixture(scope="session")
def llama() -> Sized:
    """Llama-3.1-8B in bfloat16."""
    shape = ModelShape(32, 4096, 14_336, 32, 8, 128, 128_256, 131_072)
    layer, vocabulary = 218_112_000, 128_256 * 4096
    sizes = WeightSizes(
        layer_bytes=(2 * layer,) * 32,
        embeddings_bytes=4 * vocabulary,
        read_per_token_bytes=2 * (32 * layer + vocabulary),
        parameters_per_token=32 * layer,
        stored_layer_bytes=(2 * layer,) * 32,
    )
    return Sized(sizes, shape)


@pytest.fixture(scope="session")
def mixture() -> Sized:
    """Qwen3-30B-A3B cut to 24 layers, in bfloat16: 128 experts a layer, 8 for each token."""
    shape = ModelShape(24, 2048, 6144, 32, 4, 128, 32_000, 131_072)
    expert = 3 * 2048 * 768
    dense, vocabulary = 19_140_864, 32_000 * 2048
    layer = dense + 128 * expert
    active = dense + 8 * expert
    sizes = WeightSizes(
        layer_bytes=(2 * layer,) * 24,
        embeddings_bytes=4 * vocabulary,
        read_per_token_bytes=2 * (24 * active + vocabulary),
        parameters_per_token=24 * active,
        stored_layer_bytes=(2 * layer,) * 24,
        expert_bytes=(2 * 128 * expert,) * 24,
        experts=128,
        active_experts=8,
    )
    return Sized(sizes, shape)


@pytest.fixture(scope="session")
def running() -> Callable[..., PlannedRun]:
    """Say where layers are: ``running(accelerator=16, host=16, packed=True)``."""

    def running(
        kind: DeviceKind = "cuda",
        accelerator: int = 0,
        host: int = 0,
        disk: int = 0,
        **streaming: object,
    ) -> PlannedRun:
        counts: dict[LayerTier, int] = {"accelerator": accelerator, "host": host, "disk": disk}
        tiers = tuple(tier for tier, count in counts.items() for _ in range(count))
        plan = StreamingPlan(**streaming)  # type: ignore[arg-type]
        return PlannedRun(kind, LayerPlacement(tiers), plan)

    return running
