"""What a placement may take, and what a person asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.ids import OffloadPolicy


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes left for decoder layers and the buffers through which they stream.

    Parameters
    ----------
    device_bytes
        On the device that computes, beside all other weights, KV cache and activations.
    host_bytes
        In host memory beside an accelerator; not looked at on a CPU.
    page_cache_bytes
        Of host memory that is free, whatever the plan may take of it: what layers and buffers
        leave caches the files of those on disk.
    """

    device_bytes: int
    host_bytes: int
    page_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Layers that a person asked for in each tier; None leaves it to the planner."""

    accelerator: int | None
    host: int | None
    policy: OffloadPolicy = "auto"
