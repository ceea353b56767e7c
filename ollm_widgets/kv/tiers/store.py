"""What the layers of one tiered cache share."""

from __future__ import annotations

from pathlib import Path

import torch

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.tiers.disk import DiskTier
from ollm_widgets.kv.tiers.reading import PageReader
from ollm_widgets.kv.tiers.shares import Shares
from ollm_widgets.kv.tiers.slots import Slots
from ollm_widgets.planning.kv_presets import KVPreset

_UNBOUNDED_BYTES = 1 << 62


class TierStore:
    """Budget, slots and disk of a cache; knows no layer, so that it can close after they are gone.

    Where the computing device is the host, pages in full precision that left the hot tail would
    gain nothing in host memory and go to disk. Quantized ones stay there: within `host_bytes`,
    or without that in half of the accelerator's bytes.

    Parameters
    ----------
    preset
        The strategy.
    codec
        Of pages that are not hot.
    budget
        Of the cache.
    layers
        How many share it.
    page_tokens
        Tokens of a page.
    parent
        In which folder to make one for its files.
    """

    def __init__(
        self,
        preset: KVPreset,
        codec: PageCodec,
        budget: KVBudget,
        *,
        layers: int,
        page_tokens: int,
        parent: Path,
    ) -> None:
        self.preset = preset
        self.codec = codec
        self.budget = budget
        self.page_tokens = page_tokens
        self.layers = layers
        self.parent = parent
        self._open: OpenTiers | None = None
        self._closed = False

    def another(self) -> TierStore:
        """Make one like it, for a copy of the cache."""
        return TierStore(
            self.preset,
            self.codec,
            self.budget,
            layers=self.layers,
            page_tokens=self.page_tokens,
            parent=self.parent,
        )

    @property
    def opened(self) -> OpenTiers | None:
        """The tiers, once the first states have come."""
        return self._open

    def tiers(self, device: torch.device) -> OpenTiers:
        """The tiers, opened for the device that computes.

        Raises
        ------
        RuntimeClosedError
            After `close`.
        """
        if self._closed:
            raise RuntimeClosedError("This KV cache was closed.", hint="Build another one.")
        if self._open is None:
            self._open = OpenTiers(self, device)
        return self._open

    def close(self) -> None:
        """End the threads and remove the files; may be called again."""
        self._closed = True
        opened, self._open = self._open, None
        if opened is not None:
            opened.slots.close()
            opened.disk.close()


class OpenTiers:
    """The tiers of a cache whose device is known.

    Parameters
    ----------
    store
        Whose they are.
    device
        Where attention is computed.
    """

    def __init__(self, store: TierStore, device: torch.device) -> None:
        budget, preset = store.budget, store.preset
        on_host = device.type == "cpu"
        hot_bytes = budget.accelerator_bytes
        self.host_bytes = budget.host_bytes
        self.keeps_in_host = "host" in preset.tiers and not (on_host and store.codec.lossless)
        if on_host and self.keeps_in_host and budget.host_bytes is None and hot_bytes is not None:
            self.host_bytes = hot_bytes // 2
            hot_bytes -= self.host_bytes
        # Where the hot tail is all the memory there is, its pages are written while they are hot.
        behind = preset.strategy_id == "tiered-write-back"
        self.writes_behind = behind and self.keeps_in_host
        self.writes_ahead = behind and not self.keeps_in_host and hot_bytes is not None
        self.evicted_pages = 0
        self.device = device
        self.codec = store.codec
        self.shares = Shares(hot_bytes, store.layers, store.page_tokens, on_host=on_host)
        # Numbers on their way to fewer bits and back take several times their own room.
        temporary = 1 if store.codec.lossless or not on_host else 2
        self.batch_bytes = self.shares.transfer_bytes // temporary
        self.disk = DiskTier(
            preset.layout,
            store.parent,
            pending_bytes=self.shares.pending_bytes,
            batch_bytes=self.shares.transfer_bytes,
        )
        self.reader = PageReader(store.codec, self.disk, device, self.batch_bytes)
        self.slots = Slots(device, self.reader)

    @property
    def host_bytes_a_layer(self) -> int:
        """Bytes of pages that a layer may keep in host memory."""
        most = _UNBOUNDED_BYTES if self.host_bytes is None else self.host_bytes
        return most // self.shares.layers
