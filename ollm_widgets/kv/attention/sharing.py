"""What the layers of a paged cache have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.attention.moving import PageMover
from ollm_widgets.kv.attention.room import KVTiers, PageRoom, room_for
from ollm_widgets.kv.attention.staging import Staging
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.codecs.page import PageCodec, PageShape
from ollm_widgets.weights.steps.fixed_cache import StepClock


class PagedClock(StepClock):
    """Also knows on the device how many pages are cold."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.cold_pages = torch.zeros(1, dtype=torch.long, device=device)  # [1]


@dataclass(slots=True)
class SharedPages:
    """What the layers of a cache have in common.

    Parameters
    ----------
    capacity_tokens, layers, tiers
        What has to fit, and what it may take.
    room, codec, mover, staging
        Known and made when the first states come; staging only where kernels read.
    staged_pages
        How many cold pages of each layer a captured step copies ahead.
    moved_pages
        Pages of any layer that have left the device so far.
    """

    capacity_tokens: int
    layers: int
    tiers: KVTiers
    device: torch.device
    room: PageRoom | None = None
    codec: PageCodec | None = None
    mover: PageMover | None = None
    staging: Staging | None = None
    staged_pages: int = 0
    moved_pages: int = 0

    def open(self, shape: PageShape) -> PageRoom:
        """Divide the capacity, once the shape of a page is known.

        Raises
        ------
        KVStrategyError
            If memory does not hold it.
        """
        if self.room is not None:
            return self.room
        staged = self.device.type == "cuda"
        room = room_for(shape, self.layers, self.capacity_tokens, self.tiers, staged=staged)
        if isinstance(room, str):
            raise KVStrategyError(f"{room[0].upper()}{room[1:]}.", hint="Let it use the disk.")
        self.room = room
        self.codec = codec_named(self.tiers.codec)
        self.mover = PageMover(self.codec, self.device)
        if room.staging_bytes:
            self.staging = Staging(self.device, room.staging_bytes)
        return room
