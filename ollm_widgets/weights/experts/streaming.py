"""All mixtures of experts of a model that are not resident on its computing device."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ollm_widgets.weights.experts.admission import AdmittingCache
from ollm_widgets.weights.experts.cache import AddressedCache
from ollm_widgets.weights.experts.movers import AddressedMover, ExpertMover, ListedMover
from ollm_widgets.weights.experts.slots import device_address, kernels_available
from ollm_widgets.weights.experts.sources import ExpertSource, HostExperts
from ollm_widgets.weights.experts.streamer import ExpertStreamer, ResidentExperts
from ollm_widgets.weights.experts.traffic import ExpertTraffic
from ollm_widgets.weights.experts.workspace import ExpertWorkspace


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """The experts of one layer and where they come from.

    Parameters
    ----------
    module
        The experts' module, its stacked parameters on ``meta``.
    source
        Its experts.
    """

    module: nn.Module
    source: ExpertSource


class ExpertStreaming:
    """Streams the experts of some layers through one workspace, with one budget for hot ones.

    Parameters
    ----------
    layers
        In the order in which a pass visits them.
    device
        The computing device.
    slots
        Experts in the compact room, at least as many as one token chooses. A call whose tokens
        choose no more than this in all moves only those; ``batch * chosen`` is what decode needs.
    cache_bytes
        At most so many bytes of hot experts are held on the computing device.
    whole_layers
        See `ExpertWorkspace`.
    in_place
        On the CPU, whether experts in host memory are used where they are. If not they are fetched
        as an accelerator fetches them, which is how that is tested without one.

    Raises
    ------
    SpecializationLoadError
        If a module does not match its experts.
    """

    def __init__(
        self,
        layers: Sequence[ExpertLayer],
        *,
        device: torch.device,
        slots: int,
        cache_bytes: int = 0,
        whole_layers: int = 1,
        in_place: bool = True,
    ) -> None:
        in_place = in_place and device.type == "cpu"
        resident = [each for each in layers if in_place and _runs_as_it_is(each.source)]
        moved = [each for each in layers if each not in resident]
        sources = [each.source for each in moved]
        self.workspace = ExpertWorkspace(
            sources, slots=slots, device=device, whole_layers=whole_layers
        )
        # After the first memory was taken there: a device without a context has no addresses.
        addressed = [each for each in moved if _addressable(each.source, device)]
        listed = [each for each in moved if each not in addressed]
        share = len(addressed) / max(1, len(moved))
        self._addressed = AddressedCache(
            [each.source for each in addressed if isinstance(each.source, HostExperts)],
            int(cache_bytes * share),
            device,
        )
        self._listed = AdmittingCache(
            [each.source for each in listed], int(cache_bytes * (1 - share)), device
        )
        self.streamers: tuple[ExpertStreamer, ...] = tuple(
            ExpertStreamer(each.module, self._mover(each.source), self.workspace) for each in moved
        )
        self.residents: tuple[ResidentExperts, ...] = tuple(
            ResidentExperts(each.module, each.source)
            for each in resident
            if isinstance(each.source, HostExperts)
        )
        if whole_layers > 1 and device.type == "cuda":
            self._bring_ahead(device)

    @property
    def capturable(self) -> bool:
        """Whether every streamed layer may run inside of a captured CUDA graph."""
        return all(streamer.capturable for streamer in self.streamers)

    @property
    def device_bytes(self) -> int:
        """Bytes on the computing device: workspace, hot experts and tables."""
        return self.workspace.device_bytes + self._addressed.device_bytes + self._listed.size_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of pinned staging in host memory, where the device is another."""
        return self.workspace.host_bytes

    @property
    def cached_experts(self) -> int:
        """How many experts the caches have room for."""
        return self._addressed.capacity + self._listed.capacity

    def install(self) -> None:
        """Let the modules run on streamed experts."""
        for each in self._parts():
            each.install()

    def remove(self) -> None:
        """Make the modules what they were."""
        for each in self._parts():
            each.remove()

    def cancel_with(self, cancel: threading.Event | None) -> None:
        """Let an event end reads from disk that are under way, until another is given."""
        self.workspace.cancel = cancel

    def rebalance(self, at_most: int | None = None) -> int:
        """Bring the most used experts near; see `AddressedCache.rebalance`."""
        return self._addressed.rebalance(at_most)

    def traffic(self) -> ExpertTraffic:
        """What was wanted and moved up to now; waits for the device."""
        return sum(
            (streamer.mover.traffic() for streamer in self.streamers), self._addressed.traffic()
        )

    def close(self) -> None:
        """Restore the modules and free all memory; calling it again does nothing."""
        self.remove()
        self.streamers, self.residents = (), ()
        self.workspace.close()
        self._addressed.close()
        self._listed.close()

    def _parts(self) -> tuple[ExpertStreamer | ResidentExperts, ...]:
        return (*self.streamers, *self.residents)

    def _mover(self, source: ExpertSource) -> ExpertMover:
        if isinstance(source, HostExperts) and self._addressed.holds(source):
            return AddressedMover(source, self.workspace, self._addressed)
        return ListedMover(source, self.workspace, self._listed)

    def _bring_ahead(self, device: torch.device) -> None:
        copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        movers = [
            each.mover
            for each in self.streamers
            if isinstance(each.mover, AddressedMover) and not each.mover.source.form.expands
        ]
        for mover, following in itertools.pairwise(movers):
            mover.follow(following, copies)


def _runs_as_it_is(source: ExpertSource) -> bool:
    return isinstance(source, HostExperts) and not source.form.expands


def _addressable(source: ExpertSource, device: torch.device) -> bool:
    return (
        (device.type == "cpu" or kernels_available(device))
        and isinstance(source, HostExperts)
        and all(device_address(each, device) is not None for each in source.stacked.values())
    )
