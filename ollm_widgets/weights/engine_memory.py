"""What a model's weights take, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.weights.arrangement import Arrangement
    from ollm_widgets.weights.homes import LayerHome


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes of weights by tier and kind.

    Parameters
    ----------
    accelerator_layers_bytes, accelerator_other_bytes, accelerator_ring_bytes
        Layers that stay on the accelerator; embeddings and all that is no layer; buffers that
        streamed layers and experts pass through. All 0 on a CPU.
    host_layers_bytes, host_other_bytes, host_ring_bytes
        The same in host memory.
    disk_layers_bytes
        Layers that are read each pass, as they are stored.
    """

    accelerator_layers_bytes: int = 0
    accelerator_other_bytes: int = 0
    accelerator_ring_bytes: int = 0
    host_layers_bytes: int = 0
    host_other_bytes: int = 0
    host_ring_bytes: int = 0
    disk_layers_bytes: int = 0


def measure_engine(
    homes: Sequence[LayerHome],
    other_bytes: int,
    arranged: Arrangement | None,
    *,
    on_cpu: bool,
) -> EngineMemory:
    """Add up the buffers that hold weights.

    Parameters
    ----------
    homes, other_bytes
        The layers, and what all else takes that is no layer.
    arranged
        The buffers through which layers stream.
    """
    layers_bytes = sum(home.resident_bytes for home in homes)
    ring_bytes = 0 if arranged is None else arranged.device_bytes
    on_disk = sum(home.read_bytes for home in homes if home.tier == "disk")
    if on_cpu:
        return EngineMemory(
            host_layers_bytes=layers_bytes,
            host_other_bytes=other_bytes,
            host_ring_bytes=ring_bytes,
            disk_layers_bytes=on_disk,
        )
    return EngineMemory(
        accelerator_layers_bytes=layers_bytes,
        accelerator_other_bytes=other_bytes,
        accelerator_ring_bytes=ring_bytes,
        host_layers_bytes=sum(home.host_bytes for home in homes),
        host_ring_bytes=0 if arranged is None else arranged.staging_bytes,
        disk_layers_bytes=on_disk,
    )
