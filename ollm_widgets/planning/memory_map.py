"""What a plan puts where: bytes per tier and kind."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.ids import LayerTier, Place
from ollm_widgets.render.units import format_memory


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What one decoder layer takes, in the bytes it takes where it is.

    Parameters
    ----------
    index
        Its place in a pass, from 0.
    tier
        Where its weights are between two passes.
    device
        Torch name of the device on which it computes.
    weights_bytes
        Its weights: packed in host memory where the plan packs them, as stored on disk.
    experts_bytes
        Those of them that are experts which can be moved one by one.
    kv_bytes
        Its keys and values, or its state, at the planned context, before any go elsewhere.
    """

    index: int
    tier: LayerTier
    device: str
    weights_bytes: int
    experts_bytes: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TierMemory:
    """What one tier holds, and what this plan would put there. All sizes are in bytes.

    Parameters
    ----------
    place, title
        ``gpu``, ``ram`` or ``disk``, and its name for people.
    capacity_bytes
        All of it.
    free_bytes, used_by_others_bytes
        What nobody uses now, and the rest.
    available_bytes
        What the plan may use: the free bytes less a margin, or a budget.
    layers_bytes, layer_count
        Decoder layers.
    embeddings_bytes
        Embedding, output projection and all other weights.
    kv_bytes
        The KV cache at the planned context.
    activations_bytes
        Intermediate results of a prompt of the planned context.
    staging_bytes
        Buffers through which layers stream: slots, staging, hot experts.
    experts_bytes
        The part of `layers_bytes` that is experts which can be moved one by one.
    expert_cache_bytes, ring_bytes
        The parts of `staging_bytes` that are hot experts, and slots that whole layers pass
        through; the rest is room for the experts of one layer.
    device
        Torch name of the device whose memory it is; empty for a disk.
    budget_bytes
        What a person bounded the plan to; None where the free bytes less a margin bound it.
    """

    place: Place
    title: str
    capacity_bytes: int
    free_bytes: int
    used_by_others_bytes: int
    available_bytes: int
    layers_bytes: int = 0
    layer_count: int = 0
    embeddings_bytes: int = 0
    kv_bytes: int = 0
    activations_bytes: int = 0
    staging_bytes: int = 0
    experts_bytes: int = 0
    expert_cache_bytes: int = 0
    ring_bytes: int = 0
    device: str = ""
    budget_bytes: int | None = None

    @property
    def needed_bytes(self) -> int:
        """Everything the plan puts here."""
        weights_bytes = self.layers_bytes + self.embeddings_bytes
        return weights_bytes + self.kv_bytes + self.activations_bytes + self.staging_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within what the plan may use."""
        return self.needed_bytes <= self.available_bytes

    @property
    def margin_bytes(self) -> int:
        """What is free but held back; 0 where a budget bounds the plan, and on a disk."""
        if self.budget_bytes is not None:
            return 0
        return max(self.free_bytes - self.available_bytes, 0)

    @property
    def free_after_bytes(self) -> int:
        """What nobody uses once the plan is loaded, the margin included.

        Weights are on the disk already, so only keys and values take room there.
        """
        taken_bytes = self.kv_bytes if self.place == "disk" else self.needed_bytes
        return max(self.free_bytes - taken_bytes, 0)

    @property
    def missing_bytes(self) -> int:
        """By how much the plan exceeds what it may use; 0 where it fits."""
        return max(self.needed_bytes - self.available_bytes, 0)

    def summary(self) -> str:
        """Say it in words: ``"0.8 of 21.5 GiB"``, against what the plan may use."""
        if self.place == "disk" and self.fits:
            # The model's files are there already, and take nothing of what is free.
            return format_memory(self.needed_bytes)
        needed, available = format_memory(self.needed_bytes), format_memory(self.available_bytes)
        unit = available.rpartition(" ")[2]
        return f"{needed.removesuffix(f' {unit}')} of {available}"


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The tiers that matter for a plan, the fastest first.

    Parameters
    ----------
    tiers
        GPUs, RAM, and the disk where something is read from it or written to it.
    layers
        Each decoder layer, in order; empty where they are not known.
    """

    tiers: tuple[TierMemory, ...] = ()
    layers: tuple[LayerMemory, ...] = ()

    @property
    def needed_bytes(self) -> int:
        """Bytes of memory, GPU and RAM together, that the plan needs."""
        return sum(tier.needed_bytes for tier in self.tiers if tier.place != "disk")

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache at the planned context, in all tiers."""
        return sum(tier.kv_bytes for tier in self.tiers)

    @property
    def fits(self) -> bool:
        """Whether every tier holds its part."""
        return all(tier.fits for tier in self.tiers)

    def tier(self, place: Place) -> TierMemory | None:
        """Return the tier of that place, the first of several GPUs, where there is one."""
        return next((tier for tier in self.tiers if tier.place == place), None)

    @property
    def gpus(self) -> tuple[TierMemory, ...]:
        """The tiers of all GPUs, the first being the one on which a pass begins."""
        return tuple(tier for tier in self.tiers if tier.place == "gpu")
