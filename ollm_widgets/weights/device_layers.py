"""How the layers of one device meet it, for one placement of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.experts.sources import (
    DiskExperts,
    ExpertForm,
    ExpertSource,
    HostExperts,
)
from ollm_widgets.weights.experts.streaming import ExpertLayer, ExpertStreaming
from ollm_widgets.weights.model.binding import bind
from ollm_widgets.weights.rings.copying import CopyingRing, StreamedLayer
from ollm_widgets.weights.rings.ring import ReadingRing, Ring

if TYPE_CHECKING:
    from ollm_widgets.planning.parts import StreamingPlan
    from ollm_widgets.weights.filling import Filler
    from ollm_widgets.weights.homes import LayerHome, Part
    from ollm_widgets.weights.model.structure import DecoderStructure, ExpertGroup
    from ollm_widgets.weights.reading.reader import WeightReader
    from ollm_widgets.weights.trace import Recorder

_LEAST_SLOTS = 2


class DeviceLayers:
    """Binds layers to their memory, and lets those that are elsewhere come through a ring.

    Parameters
    ----------
    homes
        Where each layer is that computes on this device, by its index in the model.
    structure
        The layers themselves.
    reader, filler
        Read what is on disk; make page-locked buffers.
    device, streaming
        Where they compute, and how they come there.
    """

    def __init__(
        self,
        homes: Mapping[int, LayerHome],
        structure: DecoderStructure,
        *,
        reader: WeightReader,
        filler: Filler,
        device: torch.device,
        streaming: StreamingPlan,
    ) -> None:
        self._reader = reader
        self._filler = filler
        self._device = device
        self._streaming = streaming
        self._on_cpu = device.type == "cpu"
        streamed = [index for index, home in homes.items() if home.dense.resident is None]
        self._cycle = {index: position for position, index in enumerate(streamed)}
        self._ring = self._build_ring([homes[index] for index in streamed]) if streamed else None
        self._bind(homes, structure)
        self._experts = self._build_experts(homes, structure)

    # ------------------------------------------------------------------ a pass

    def streams(self, index: int) -> bool:
        """Whether layer `index` comes to the device in each pass."""
        return index in self._cycle

    def take(self, index: int, cancel: threading.Event | None, recorder: Recorder | None) -> None:
        """Let what is computed from now on find layer `index` in its memory."""
        position = self._cycle.get(index)
        if position is not None and self._ring is not None:
            self._ring.take(position, cancel, recorder)

    def give_back(self, index: int) -> None:
        """Say that all work on layer `index` is enqueued."""
        position = self._cycle.get(index)
        if position is not None and self._ring is not None:
            self._ring.give_back(position)

    def cancel_with(self, cancel: threading.Event | None) -> None:
        """Let an event end reads of experts that are under way."""
        if self._experts is not None:
            self._experts.cancel_with(cancel)

    # ------------------------------------------------------------------ captured steps

    @property
    def resident(self) -> bool:
        """Whether nothing moves in a pass."""
        return self._ring is None and self._experts is None

    @property
    def capturable(self) -> bool:
        """Whether a pass does nothing but what the accelerator can be told in advance."""
        ring, experts = self._ring, self._experts
        copies = ring is None or (isinstance(ring, CopyingRing) and ring.capturable)
        return copies and (experts is None or experts.capturable)

    def settle(self) -> None:
        """Bring the ring to where a captured step begins."""
        if isinstance(self._ring, CopyingRing):
            self._ring.settle()

    def fork(self) -> None:
        """Begin a captured step."""
        if isinstance(self._ring, CopyingRing):
            self._ring.fork()

    def join(self) -> None:
        """End a captured step."""
        if isinstance(self._ring, CopyingRing):
            self._ring.join()

    def forget(self) -> None:
        """Take nothing for granted that was issued in a capture which was given up."""
        if isinstance(self._ring, CopyingRing):
            self._ring.forget()

    def between_steps(self) -> None:
        """Bring the experts that are used most near; no step may run."""
        if self._experts is not None:
            self._experts.rebalance()

    # ------------------------------------------------------------------ looking at it

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffers on the device that computes."""
        ring = 0 if self._ring is None else self._ring.slot_bytes
        return ring + (0 if self._experts is None else self._experts.device_bytes)

    @property
    def staging_bytes(self) -> int:
        """Bytes of the buffers in host memory beside an accelerator."""
        ring = 0 if self._ring is None else self._ring.staging_bytes
        return ring + (0 if self._experts is None else self._experts.host_bytes)

    @property
    def experts(self) -> ExpertStreaming | None:
        """The layers of which only the chosen experts move; None without such."""
        return self._experts

    def close(self) -> None:
        """Let the buffers go."""
        if self._experts is not None:
            self._experts.close()
        if self._ring is not None:
            self._ring.close()

    # ------------------------------------------------------------------ building

    def _build_ring(self, homes: Sequence[LayerHome]) -> Ring:
        slots = max(self._streaming.device_slots, _LEAST_SLOTS)
        if self._on_cpu:
            layouts = [home.dense.read_layout for home in homes]
            forms = [home.dense.stored for home in homes]
            return ReadingRing(self._reader, layouts, slots, forms=forms)
        on_disk = [home.dense.read_layout for home in homes if home.dense.host is None]
        staging = None
        if on_disk:
            count = max(self._streaming.staging_slots, _LEAST_SLOTS)
            staging = ReadingRing(self._reader, on_disk, count, self._filler.locked)
        layers = [
            StreamedLayer(
                home.dense.layout,
                None if home.dense.host is None else home.dense.host.tensor,
                home.dense.form,
            )
            for home in homes
        ]
        return CopyingRing(self._device, layers, slots, staging)

    def _bind(self, homes: Mapping[int, LayerHome], structure: DecoderStructure) -> None:
        for index, home in homes.items():
            memory = home.dense.resident
            if memory is None and self._ring is not None:
                memory = self._ring.buffer(self._cycle[index])
            if memory is not None:
                bind(structure.layers[index], home.dense.layout.views(memory))
            if home.experts is not None and home.experts.resident is not None:
                views = home.experts.layout.views(home.experts.resident)
                bind(structure.layers[index], views)

    def _build_experts(
        self, homes: Mapping[int, LayerHome], structure: DecoderStructure
    ) -> ExpertStreaming | None:
        layers = []
        for index, home in homes.items():
            group = structure.expert_groups[index]
            if group is not None and home.experts is not None and home.experts.resident is None:
                module = structure.layers[index].get_submodule(group.path)
                layers.append(ExpertLayer(module, self._source(home.experts, group)))
        if not layers:
            return None
        streaming = ExpertStreaming(
            layers,
            device=self._device,
            slots=self._streaming.expert_slots,
            cache_bytes=self._streaming.expert_cache_bytes,
        )
        streaming.install()
        return streaming

    def _source(self, part: Part, group: ExpertGroup) -> ExpertSource:
        form = ExpertForm.of(part.layout, group)
        names = form.held_names(group)
        if part.host is not None:
            views = part.read_layout.views(part.host.tensor)
            return HostExperts({name: views[path] for name, path in names.items()}, form)
        recipes = {slot.name: slot.recipe for slot in part.read_layout.slots}
        return DiskExperts(
            self._reader, {name: recipes[path] for name, path in names.items()}, form
        )
