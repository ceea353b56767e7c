"""Bringing layers to their tiers, and from one tier to another."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import Cancelled
from ollm_widgets.weights.host_copies import HostCopies
from ollm_widgets.weights.window_stream import Count

if TYPE_CHECKING:
    from ollm_widgets.planning.ids import LayerTier
    from ollm_widgets.weights.filling import Filler
    from ollm_widgets.weights.homes import LayerHome, Part
    from ollm_widgets.weights.reading.spilling import SpillFolder

RANK: dict[LayerTier, int] = {"disk": 0, "host": 1, "accelerator": 2}


class Placer:
    """Moves layers; one step lower where the accelerator is full after all.

    Parameters
    ----------
    filler
        Reads and copies.
    spill
        Converts once what layers on disk would convert in each pass.
    on_cpu
        Whether host memory is what computes.
    pack
        Whether layers in host memory beside an accelerator are packed without loss.
    copies
        Have some of what is on accelerators in host memory already, by the identity of its part.
    """

    def __init__(
        self,
        filler: Filler,
        spill: SpillFolder,
        *,
        on_cpu: bool,
        pack: bool,
        copies: HostCopies | None = None,
    ) -> None:
        self._filler = filler
        self._spill = spill
        self._on_cpu = on_cpu
        self._pack = pack
        self._copies = copies or HostCopies()
        self.lowered = 0

    def bring(
        self, home: LayerHome, tier: LayerTier, cancel: threading.Event, count: Count
    ) -> None:
        """Read a layer that is on disk into a tier.

        What goes to an accelerator may still be under way when this returns, until the filler
        has settled.

        Raises
        ------
        OutOfMemory, WeightReadError, CheckpointChangedError, Cancelled
            The layer is on disk then. What was under way has not come.
        """
        _stop_at(cancel)
        try:
            if tier == "disk":
                for part in home.parts:
                    self._without_conversions(part, cancel)
            if tier == "accelerator" or (tier == "host" and self._on_cpu):
                tier = self._bring_to_device(home, tier, cancel, count)
            if tier == "host" and not self._on_cpu:
                self._bring_to_host(home, cancel, count)
        except BaseException:
            home.clear()
            raise
        home.tier = tier

    def move(self, home: LayerHome, tier: LayerTier, cancel: threading.Event) -> None:
        """Take a layer to another tier, from memory where its bytes are there already."""
        _stop_at(cancel)
        if home.tier == "accelerator" and tier == "host":
            for part in home.parts:
                if part.stored is not None:
                    part.host = self._filler.host(part, cancel, lambda _bytes: None)
                elif id(part) in self._copies:
                    part.host = self._copies.take(id(part))
                elif part.resident is not None:
                    part.host = self._filler.to_host(part.resident)
                part.resident = None
            home.tier = tier
            return
        home.clear()
        self.bring(home, tier, cancel, lambda _bytes: None)
        try:
            self._filler.settle(cancel)
        except BaseException:
            home.clear()
            raise

    def _bring_to_host(self, home: LayerHome, cancel: threading.Event, count: Count) -> None:
        for part in home.parts:
            # Experts are fetched one by one, as they are; quantized weights do not pack.
            if self._pack and part is home.dense and part.stored is None:
                part.host, part.packed = self._filler.packed(part, home.device, cancel, count)
            else:
                part.host = self._filler.host(part, cancel, count)

    def _without_conversions(self, part: Part, cancel: threading.Event) -> None:
        layout = self._spill.without_conversions(part.read_layout, cancel)
        if part.stored is None:
            part.layout = layout
        else:
            part.stored = replace(part.stored, layout=layout)

    def _bring_to_device(
        self, home: LayerHome, tier: LayerTier, cancel: threading.Event, count: Count
    ) -> LayerTier:
        try:
            for part in home.parts:
                part.resident = self._filler.resident(part, home.device, cancel, count)
        except torch.OutOfMemoryError:
            home.clear()
            torch.cuda.empty_cache()
            self.lowered += 1
            return "host"
        return tier


def _stop_at(cancel: threading.Event) -> None:
    # A read that is over before anyone waits for it does not look at the event.
    if cancel.is_set():
        raise Cancelled("Moving the layers was cancelled.")
