"""A model's weights leave accelerators for host memory, and come back.

Nothing is lost on the way: until all copies are there nothing has left, and until everything has
come back the copies stay. A failure, or a cancel, leaves the weights where they were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from ollm_widgets.weights.copy_streams import CopyStreams, Sending
from ollm_widgets.weights.host_copies import Block, HostCopies
from ollm_widgets.weights.model_memory import ModelMemory

if TYPE_CHECKING:
    from ollm_widgets.weights.homes import LayerHome, Part

# Called with the bytes that have come, and those there will be.
ByteProgress = Callable[[int, int], None]


class Companion(Protocol):
    """What goes with the weights: caches, and steps that were captured over both."""

    def leave(self) -> None:
        """Leave too, or leave again after a return that failed; must not raise."""

    def come_back(self, streams: CopyStreams) -> None:
        """Come back too, while the weights are still under way; must not raise for want of room."""

    def arrived(self) -> None:
        """All copies are over."""


class Demotable(Protocol):
    """Weights that can leave accelerators."""

    @property
    def demoted(self) -> bool:
        """Whether they have left."""

    @property
    def host_copies_bytes(self) -> int:
        """Bytes in host memory of what belongs, or is, on accelerators."""

    def demote(self, companion: Companion, cancel: threading.Event) -> None:
        """Leave; no request may run.

        Raises
        ------
        Cancelled, OutOfMemory
            Nothing has left.
        """

    def restore(
        self, companion: Companion, progress: ByteProgress, cancel: threading.Event
    ) -> None:
        """Come back to where they were; no request may run.

        Raises
        ------
        Cancelled, OutOfMemory, torch.OutOfMemoryError
            Everything is in host memory, as before.
        """

    def release_host_copies(self) -> None:
        """Let copies go that are not needed until the next demotion."""

    def close(self) -> None:
        """Let everything in host memory go; the weights cannot come back."""


class WholeModel:
    """A model that is on one device as transformers loaded it.

    Parameters
    ----------
    model
        The model.
    kind
        Type of its device: ``cuda``.
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        self._copies = HostCopies()
        self._memory = ModelMemory(model, (), kind)
        self.demoted = False

    @property
    def host_copies_bytes(self) -> int:
        """Bytes in host memory of what belongs, or is, on accelerators."""
        return self._copies.size_bytes

    def demote(self, companion: Companion, cancel: threading.Event) -> None:
        """See `Demotable`."""
        if self.demoted:
            return
        self._copies.make(self._memory.blocks(self._copies), cancel)
        companion.leave()
        self._memory.leave(self._copies)
        self.demoted = True

    def restore(
        self, companion: Companion, progress: ByteProgress, cancel: threading.Event
    ) -> None:
        """See `Demotable`."""
        if not self.demoted:
            return
        sending = Sending(progress)
        try:
            self._memory.come_back(self._copies, sending)
            companion.come_back(sending.streams)
            sending.finish(cancel)
        except BaseException:
            sending.stop()
            companion.leave()
            self._memory.leave(self._copies)
            raise
        self.demoted = False
        self._memory.note_arrival(self._copies)
        companion.arrived()

    def release_host_copies(self) -> None:
        """See `Demotable`."""
        if not self.demoted:
            self._copies.release()

    def close(self) -> None:
        """See `Demotable`."""
        self._copies.release()


@dataclass(frozen=True, slots=True)
class Moves:
    """What a `WeightEngine` does around its layers when they leave and come back.

    Parameters
    ----------
    take_apart
        Lets the buffers of one placement go, and binds no layer to memory.
    arrange
        Makes those buffers and binds the layers; may lower some.
    lower
        Moves a layer to host memory for which its device has no room.
    note_lowered
        Is told how many those were.
    """

    take_apart: Callable[[], None]
    arrange: Callable[[], None]
    lower: Callable[[LayerHome], None]
    note_lowered: Callable[[int], None]


class LayersDemotion:
    """The weights of a `WeightEngine` that are on accelerators: layers, and all that is no layer.

    Layers that are elsewhere stay there. Hot experts are forgotten, and come near again with use.

    Parameters
    ----------
    model, layers, homes
        The model, its layers, and where each is.
    copies
        By the identity of its part for a layer; what is no layer has keys of its own.
    kind
        Type of the devices that they leave: ``cuda``.
    moves
        What its engine does.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        homes: Sequence[LayerHome],
        copies: HostCopies,
        *,
        kind: str,
        moves: Moves,
    ) -> None:
        self.demoted = False
        self._copies = copies
        self._rest = ModelMemory(model, layers, kind)
        self._homes = homes
        self._moves = moves
        self._tiers = [home.tier for home in homes]
        self._sending: Sending | None = None

    @property
    def host_copies_bytes(self) -> int:
        """Bytes in host memory of what belongs, or is, on accelerators."""
        return self._copies.size_bytes

    def demote(self, companion: Companion, cancel: threading.Event) -> None:
        """See `Demotable`."""
        if self.demoted:
            return
        layers = [
            Block(id(part), (part.resident,)) for part in self._parts() if part.resident is not None
        ]
        self._copies.make([*self._rest.blocks(self._copies), *layers], cancel)
        companion.leave()
        self._moves.take_apart()
        self._leave()
        self.demoted = True

    def restore(
        self, companion: Companion, progress: ByteProgress, cancel: threading.Event
    ) -> None:
        """See `Demotable`; layers for which there is no room any more stay in host memory."""
        if not self.demoted:
            return
        self._tiers = [home.tier for home in self._homes]
        sending = self._sending = Sending(progress)
        try:
            self._send(sending)
            self._moves.arrange()
            companion.come_back(sending.streams)
            sending.finish(cancel)
        except BaseException:
            sending.stop()
            companion.leave()
            self._moves.take_apart()
            self._raise_lowered()
            self._leave()
            raise
        finally:
            self._sending = None
        self.demoted = False
        self._rest.note_arrival(self._copies)
        self.forget_moved()
        companion.arrived()
        tiers = zip(self._tiers, self._homes, strict=True)
        self._moves.note_lowered(sum(tier != home.tier for tier, home in tiers))

    def settle(self) -> None:
        """Return when nothing is being copied into a layer's memory."""
        if self._sending is not None:
            self._sending.drain()

    def forget_moved(self) -> None:
        """Let go of copies of layers that are not on accelerators any more."""
        self._copies.keep_only({id(part) for part in self._parts()} | self._rest.keys)

    def release_host_copies(self) -> None:
        """See `Demotable`."""
        if not self.demoted:
            self._copies.release()

    def close(self) -> None:
        """See `Demotable`."""
        self._copies.release()

    # ------------------------------------------------------------------ layer by layer

    def _parts(self) -> list[Part]:
        """The parts that are, or belong, on accelerators."""
        return [part for home in self._homes if home.tier == "accelerator" for part in home.parts]

    def _leave(self) -> None:
        for part in self._parts():
            part.resident = None
        self._rest.leave(self._copies)

    def _send(self, sending: Sending) -> None:
        """Take memory for everything, and send it its bytes."""
        self._rest.come_back(self._copies, sending)
        for home in self._homes:
            if home.tier != "accelerator":
                continue
            try:
                for part in home.parts:
                    part.resident = torch.empty(
                        part.layout.size_bytes, dtype=torch.uint8, device=home.device
                    )
            except torch.OutOfMemoryError:
                for part in home.parts:
                    part.resident = None
                self._moves.lower(home)
                continue
            for part in home.parts:
                if part.resident is not None:
                    (source,) = self._copies.pieces(id(part))
                    sending.add(part.resident, source)

    def _raise_lowered(self) -> None:
        """Have layers that were lowered on the way belong on accelerators again."""
        for home, tier in zip(self._homes, self._tiers, strict=True):
            if tier != "accelerator":
                continue
            for part in home.parts:
                if part.host is not None and id(part) in self._copies:
                    part.host.close()
                elif part.host is not None:
                    self._copies.put(id(part), part.host)
                part.host = None
            home.tier = tier
