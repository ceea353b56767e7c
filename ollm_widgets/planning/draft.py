"""What has been settled so far while a plan is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.across import DeviceShare, Site, lay_out_across
from ollm_widgets.planning.backend_choice import BackendChoice
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.device_choice import DeviceChoice
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.footprint import Demand, Footprint
from ollm_widgets.planning.ids import Place
from ollm_widgets.planning.kv_choice import kv_folder, on_several_devices
from ollm_widgets.planning.kv_presets import CODEC_SHARES, preset_of
from ollm_widgets.planning.memory import (
    attention_layers,
    device_available_bytes,
    disk_tier,
    memory_map,
    memory_map_across,
)
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import KVPlan, LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.placement import place_layers
from ollm_widgets.planning.search.objective import token_seconds
from ollm_widgets.planning.streaming import Counts, LayoutBook, Room
from ollm_widgets.planning.traits import BackendTraits
from ollm_widgets.planning.weights import ITEM_BYTES, WeightSizes, layer_count
from ollm_widgets.settings import cache_dir

_LEAST_HOT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Draft:
    """Backend, device, demand and placement; strategy and obstacles follow from them.

    Parameters
    ----------
    book
        Finds placements.
    kv_host_bytes, kv_disk_bytes
        What of the KV cache is beside the device, in the bytes it takes there.
    devices, shares
        The GPUs that the layers shall be placed across, and what each of them has; empty where
        the chosen device is alone.
    """

    resolved: ResolvedModel
    config: RuntimeConfig
    machine: Machine
    backend: BackendChoice
    choice: DeviceChoice
    demand: Demand
    footprint: Footprint
    placement: LayerPlacement
    book: LayoutBook
    streaming: StreamingPlan = field(default_factory=StreamingPlan)
    kv_host_bytes: int = 0
    kv_disk_bytes: int = 0
    devices: tuple[Device, ...] = ()
    shares: tuple[DeviceShare, ...] = ()

    @property
    def spreads(self) -> bool:
        """Whether layers compute on several devices."""
        return sum(bool(share.layers) for share in self.shares) > 1

    @property
    def passing(self) -> tuple[tuple[int, ...], ...]:
        """The layers that stream through each device that computes."""
        tiers = self.placement.tiers
        hands = [share.layers for share in self.shares] or [tuple(range(len(tiers)))]
        return tuple(
            tuple(index for index in hand if tiers[index] != "accelerator") for hand in hands
        )

    @property
    def run(self) -> PlannedRun:
        """What decides which passes apply."""
        return PlannedRun(self.choice.device.kind, self.placement, self.streaming)

    @property
    def token_s(self) -> float:
        """Seconds of a token, by which placements are compared; 0 for unknown weights."""
        if self.footprint.sizes is None:
            return 0.0
        from_disk = self.placement.disk_layers > 0
        speeds = self.book.speeds(self.choice.device, from_disk=from_disk)
        return token_seconds(self.footprint.sizes, self.run, speeds)

    @property
    def kv_spills(self) -> bool:
        """Whether the KV cache of the planned context is larger than its budget."""
        return self.demand.kv_total_bytes(self.choice.dtype) > self.footprint.kv_bytes

    @property
    def kv_strategy_traits(self) -> BackendTraits:
        """What the backend can do, as far as the placement lets it hold a KV cache."""
        traits = self.backend.traits
        return on_several_devices(traits) if self.spreads else traits

    def with_spilled_kv(self, kv: KVPlan) -> Draft:
        """Keep as much of the KV cache in memory as fits; the rest goes to disk."""
        preset = preset_of(kv.strategy)
        if not preset.uses_disk:
            return self
        total_bytes = self.demand.kv_total_bytes(self.choice.dtype)
        kept_bytes = min(self.footprint.kv_bytes, self.room_bytes_of("own"))
        kept_bytes = max(kept_bytes, min(self._least_kv_bytes(), total_bytes))
        cold_bytes = total_bytes - kept_bytes
        if kv.codec is not None:
            of_16_bits = cold_bytes * 2 / ITEM_BYTES[self.choice.dtype]
            cold_bytes = math.ceil(of_16_bits * CODEC_SHARES[kv.codec])
        in_host_bytes = 0
        if self.choice.device.kind != "cpu" and "host" in preset.tiers:
            in_host_bytes = min(cold_bytes, self.room_bytes_of("ram"))
        writes_behind = kv.strategy == "tiered-write-back"
        return replace(
            self,
            footprint=replace(self.footprint, kv_bytes=kept_bytes),
            kv_host_bytes=in_host_bytes,
            kv_disk_bytes=cold_bytes if writes_behind else cold_bytes - in_host_bytes,
        )

    def _least_kv_bytes(self) -> int:
        """What stays on the device: two layers on their way, and some tokens of each."""
        each = self.demand.kv_layer_bytes(self.choice.dtype)
        tokens = max(self.demand.context_tokens, 1)
        return 2 * max(each, default=0) + sum(each) * min(_LEAST_HOT_TOKENS, tokens) // tokens

    def room_bytes_of(self, where: Literal["own", "ram"]) -> int:
        """What a tier has left for keys and values."""
        kind = self.choice.device.kind
        place: Place = "gpu" if where == "own" and kind != "cpu" else "ram"
        tier = self.memory().tier(place)
        if tier is None:
            return 0
        return max(tier.available_bytes - (tier.needed_bytes - tier.kv_bytes), 0)

    def memory(self) -> MemoryMap:
        """Say what each tier would hold."""
        disk: TierMemory | None = None
        if self.kv_disk_bytes:
            disk = disk_tier(kv_folder(self.config))
            disk = replace(disk, available_bytes=disk.free_bytes)
        elif self.placement.disk_layers:
            disk = disk_tier(self.resolved.model_path or cache_dir())
        if self.shares and self.footprint.sizes is not None:
            return memory_map_across(
                self.machine,
                self.config,
                self.placement,
                self.footprint.sizes,
                self.shares,
                activations_bytes=self.footprint.activations_bytes,
                kv_layer_bytes=self.demand.kv_layer_bytes(self.choice.dtype),
                packed=self.streaming.packed,
                disk=disk,
            )
        return memory_map(
            self.machine,
            self.choice.device,
            self.config,
            self.placement,
            self.footprint.sizes,
            kv_cache_bytes=self.footprint.kv_bytes,
            kv_host_bytes=self.kv_host_bytes,
            kv_disk_bytes=self.kv_disk_bytes,
            kv_layer_bytes=self.demand.kv_layer_bytes(self.choice.dtype),
            activations_bytes=self.footprint.activations_bytes,
            streaming=self.streaming,
            disk=disk,
        )


def placed(draft: Draft) -> Draft:
    """Place the layers: as asked or as the planner decides where they can stream, else whole."""
    kind, sizes = draft.choice.device.kind, draft.footprint.sizes
    if not draft.backend.traits.supports_streaming or sizes is None or not sizes.layer_bytes:
        layers = layer_count(draft.resolved)
        whole = (0, layers) if kind == "cpu" else (layers, 0)
        return replace(draft, placement=place_layers(layers, *whole))
    at_once = _with_whole_prompts(draft, sizes)
    if at_once is not None:
        return at_once
    longest = _laid_out(draft, sizes)
    if not longest.run.streams and _fits_device(longest):
        return longest
    # Shorter chunks leave layers more room, so the shortest take the least time; of those that
    # take no more, the longest are the best.
    demands = _chunk_lengths(draft)
    shortest = _in_chunks(draft, demands[-1], sizes) if len(demands) > 1 else longest
    if not _fits_device(shortest):
        return shortest
    least_s = shortest.token_s
    for demand in demands[:-1]:
        tried = longest if demand is draft.demand else _in_chunks(draft, demand, sizes)
        if _fits_device(tried) and tried.token_s <= least_s:
            return tried
    return shortest


def _fits_device(draft: Draft) -> bool:
    own = "ram" if draft.choice.device.kind == "cpu" else "gpu"
    return all(tier.fits for tier in draft.memory().tiers if tier.place == own)


def _with_whole_prompts(draft: Draft, sizes: WeightSizes) -> Draft | None:
    """Let a prompt pass at once where nothing streams and there is room: no chunk is faster."""
    kind, dtype, demand = draft.choice.device.kind, draft.choice.dtype, draft.demand
    rows = demand.prefill_chunk_tokens(dtype, kind)
    if kind == "cpu" or demand.chunk_was_asked or rows is None or rows >= demand.context_tokens:
        return None
    demand = replace(demand, chunk_tokens=demand.context_tokens)
    whole = _in_chunks(draft, demand, sizes)
    return whole if not whole.run.streams and _fits_device(whole) else None


def _chunk_lengths(draft: Draft) -> list[Demand]:
    """The demand with prompts in chunks of each length that may be taken, the longest first."""
    dtype, kind = draft.choice.dtype, draft.choice.device.kind
    demands = [draft.demand]
    while (shorter := demands[-1].in_smaller_chunks(dtype, kind)) is not None:
        demands.append(shorter)
    return demands


def _in_chunks(draft: Draft, demand: Demand, sizes: WeightSizes) -> Draft:
    footprint = demand.footprint(draft.choice.dtype, draft.choice.device.kind)
    return _laid_out(replace(draft, demand=demand, footprint=footprint), sizes)


def _laid_out(draft: Draft, sizes: WeightSizes) -> Draft:
    device, config = draft.choice.device, draft.config
    host_bytes = device_available_bytes(draft.machine.cpu, config)
    counts = Counts(config.offload_gpu_layers, config.offload_cpu_layers, config.offload_cpu_policy)
    if draft.devices:
        placement, streaming, shares = lay_out_across(
            sizes,
            _kv_of_each(draft, sizes),
            draft.choice.dtype,
            _sites(draft),
            draft.book,
            host_bytes=host_bytes,
            page_cache_bytes=draft.machine.ram_free_bytes,
            counts=counts,
        )
        draft = replace(draft, shares=shares)
    else:
        room_bytes = device_available_bytes(device, config) - draft.footprint.beside_bytes
        beside_bytes = draft.footprint.beside_bytes if device.kind == "cpu" else 0
        room = Room(max(room_bytes, 0), host_bytes, draft.machine.ram_free_bytes - beside_bytes)
        placement, streaming = draft.book.layouts(sizes, draft.choice.dtype, device).best(
            room, counts
        )
    draft = replace(draft, placement=placement, streaming=streaming)
    ram = draft.memory().tier("ram")
    left_bytes = draft.machine.ram_free_bytes - (ram.needed_bytes if ram is not None else 0)
    pairs = zip(placement.tiers, sizes.stored_layer_bytes, strict=True)
    from_disk_bytes = sum(size for tier, size in pairs if tier == "disk")
    chunk_tokens = draft.demand.prefill_chunk_tokens(draft.choice.dtype, device.kind)
    return replace(
        draft,
        streaming=replace(
            streaming,
            prefill_chunk_tokens=chunk_tokens,
            captured_steps=device.kind == "cuda"
            and not placement.disk_layers
            and not draft.spreads,
            read_direct=from_disk_bytes > max(left_bytes, 0),
        ),
    )


def _sites(draft: Draft) -> tuple[Site, ...]:
    """The GPUs and their room; each runs its own layers, and the first holds all the rest."""
    work_bytes, kv_bytes = draft.footprint.activations_bytes, draft.footprint.kv_bytes
    beside = [draft.footprint.beside_bytes - kv_bytes] + [work_bytes] * (len(draft.devices) - 1)
    return tuple(
        Site(device, max(device_available_bytes(device, draft.config) - taken_bytes, 0))
        for device, taken_bytes in zip(draft.devices, beside, strict=True)
    )


def _kv_of_each(draft: Draft, sizes: WeightSizes) -> tuple[int, ...]:
    each, layers = draft.demand.kv_layer_bytes(draft.choice.dtype), len(sizes.layer_bytes)
    return (each + (0,) * layers)[:layers]


def sized_kv(kv: KVPlan, draft: Draft) -> KVPlan:
    """Fill in the bytes that a strategy takes, and may take, where the shape is known."""
    shape = draft.resolved.shape
    if shape is None or not draft.config.use_cache:
        return kv
    full_layers, _ = attention_layers(shape)
    per_token = 2 * full_layers * shape.kv_heads * shape.head_dim * ITEM_BYTES[draft.choice.dtype]
    kv = replace(
        kv,
        bytes_per_1k_tokens=1000 * per_token,
        total_bytes=draft.demand.kv_total_bytes(draft.choice.dtype),
    )
    if not preset_of(kv.strategy).uses_disk:
        return kv
    room_bytes = draft.room_bytes_of("own")
    asked_bytes = draft.demand.kv_budget_bytes
    return replace(
        kv,
        device_budget_bytes=room_bytes if asked_bytes is None else min(asked_bytes, room_bytes),
        host_budget_bytes=None if draft.choice.device.kind == "cpu" else draft.room_bytes_of("ram"),
    )
