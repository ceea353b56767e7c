"""Typed parts of a plan: where layers go, how they stream, how the KV cache is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ollm_widgets.planning.ids import KVCodecId, KVRule, KVStrategyId, LayerTier

# A bfloat16 weight packed without loss takes 12 bits, and few need an escape: measured on layers
# shaped like those of Llama-3.1-8B.
PACKED_SHARE = 0.7515
# Packed and quantized layers are decoded one after the other into one raw buffer.
RAW_SLOTS_BESIDE_PACKED = 1

_TIER_WORDS: dict[LayerTier, str] = {
    "accelerator": "on the accelerator",
    "host": "in RAM",
    "disk": "on disk",
}


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """Where each decoder layer is, in order; empty when the layers are not known.

    Parameters
    ----------
    tiers
        The tier of each layer.
    devices
        Torch names of the accelerators on which the layers compute; empty where all are on the
        plan's one device.
    """

    tiers: tuple[LayerTier, ...] = ()
    devices: tuple[str, ...] = ()

    @property
    def accelerator_layers(self) -> int:
        """Layers that stay on the accelerator."""
        return self.tiers.count("accelerator")

    @property
    def host_layers(self) -> int:
        """Layers that stay in host memory."""
        return self.tiers.count("host")

    @property
    def disk_layers(self) -> int:
        """Layers that are read from disk each pass."""
        return self.tiers.count("disk")

    def summary(self) -> str:
        """Say the placement in words: ``"30 layers in RAM"``."""
        counts = [(self.tiers.count(tier), words) for tier, words in _TIER_WORDS.items()]
        used = [
            f"{count} layer{'' if count == 1 else 's'} {words}" for count, words in counts if count
        ]
        names = sorted(set(self.devices))
        across = f", across {listed(names)}" if len(names) > 1 else ""
        return (", ".join(used) or "not known") + across


def listed(words: Sequence[str]) -> str:
    """Join words as people do: ``"cuda:0, cuda:1 and cuda:2"``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def packed_bytes(size_bytes: int) -> int:
    """Bytes of packed bfloat16 weights that take `size_bytes` as they are."""
    return math.ceil(size_bytes * PACKED_SHARE)


@dataclass(frozen=True, slots=True)
class StreamingPlan:
    """The buffers through which layers stream, and how prompts and steps run.

    Where layers compute on several devices, each has buffers of its own; a device takes no more
    of them than it has layers to stream.

    Parameters
    ----------
    device_slots
        Buffers on the computing device through which streamed layers pass; 0 = nothing streams.
    slot_bytes
        The largest streamed layer, raw; where experts stream on their own, without them.
    stored_slot_bytes
        The largest streamed layer as it is stored, where quantized layers stream so and are
        expanded on the device, into one raw buffer beside the slots; 0 where none are.
    staging_slots
        Pinned host buffers between disk and an accelerator, of a streamed layer each; 0 on a
        CPU, or when no layer is on disk.
    packed
        Layers in host memory are held packed without loss and decoded on the accelerator,
        into one raw buffer beside the slots; experts that stream on their own stay raw.
    expert_streaming
        Streamed mixture-of-experts layers move only the chosen experts while decoding.
    expert_slots
        Experts that the compact room on the computing device holds.
    expert_room_bytes
        That room, and room for all experts of one layer, which a long prompt needs.
    expert_staging_bytes
        Pinned host memory between disk and an accelerator for the experts of the compact room.
    expert_cache_bytes
        Memory of the computing device for hot experts.
    prefill_chunk_tokens
        Rows of a prompt that pass a layer at once; None = all.
    captured_steps
        Decoding runs as captured CUDA graphs.
    read_direct
        Layers are read past the page cache, which cannot hold them.
    """

    device_slots: int = 0
    slot_bytes: int = 0
    stored_slot_bytes: int = 0
    staging_slots: int = 0
    packed: bool = False
    expert_streaming: bool = False
    expert_slots: int = 0
    expert_room_bytes: int = 0
    expert_staging_bytes: int = 0
    expert_cache_bytes: int = 0
    prefill_chunk_tokens: int | None = None
    captured_steps: bool = False
    read_direct: bool = False

    @property
    def read_slot_bytes(self) -> int:
        """Bytes of the largest streamed layer as it is read: as it is stored, or raw."""
        return self.stored_slot_bytes or self.slot_bytes

    @property
    def device_slot_bytes(self) -> int:
        """Bytes of one device slot.

        A layer as it is stored where it is quantized, else a packed one, or a raw one where some
        come from disk.
        """
        if self.stored_slot_bytes:
            return self.stored_slot_bytes
        only_packed = self.packed and not self.staging_slots
        return packed_bytes(self.slot_bytes) if only_packed else self.slot_bytes

    @property
    def device_bytes(self) -> int:
        """All buffers on the computing device, hot experts included."""
        raw_slots = RAW_SLOTS_BESIDE_PACKED if self.packed or self.stored_slot_bytes else 0
        slots = self.device_slots * self.device_slot_bytes + raw_slots * self.slot_bytes
        return slots + self.expert_room_bytes + self.expert_cache_bytes

    @property
    def staging_bytes(self) -> int:
        """All pinned buffers between disk and accelerator."""
        return self.staging_slots * self.read_slot_bytes + self.expert_staging_bytes


@dataclass(frozen=True, slots=True)
class KVPlan:
    """How keys and values are kept.

    Parameters
    ----------
    strategy, rule, why
        The strategy, the rule that chose it, and the rule in words.
    fallbacks
        Strategies to try, in order, if it cannot be built.
    bytes_per_1k_tokens
        Growth per 1,000 tokens of history, as long as nothing is dropped; 0 when unknown.
    window_tokens
        Tokens that are kept, None for all.
    context_tokens
        Tokens planned for.
    total_bytes
        Bytes of a cache filled to the planned context, in full precision.
    sink_tokens
        First tokens that a window keeps beside its last ones.
    codec
        How cold pages are kept; None as they are.
    device_budget_bytes, host_budget_bytes
        What the cache may take on the device that computes, and in host memory beside it; None
        where there is no bound of its own. What is beyond both goes to disk.
    """

    strategy: KVStrategyId
    rule: KVRule
    why: str
    fallbacks: tuple[KVStrategyId, ...] = ()
    bytes_per_1k_tokens: int = 0
    window_tokens: int | None = None
    context_tokens: int = 0
    total_bytes: int = 0
    sink_tokens: int = 0
    codec: KVCodecId | None = None
    device_budget_bytes: int | None = None
    host_budget_bytes: int | None = None
