"""How much memory a KV cache may take, tier by tier."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVBudget:
    """Bytes that a KV cache may hold; what is beyond goes to the next slower tier.

    Parameters
    ----------
    accelerator_bytes
        On the computing device, the buffers of layers in flight included; None = no bound. Where
        the CPU computes, this is host memory.
    host_bytes
        In host memory beside the computing device, for pages that have left it; None = no bound.
    """

    accelerator_bytes: int | None = None
    host_bytes: int | None = None
