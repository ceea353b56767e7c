"""How the layers of a model meet the devices that compute, for one placement of them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.crossing import DeviceCrossing
from ollm_widgets.weights.device_layers import DeviceLayers

if TYPE_CHECKING:
    from ollm_widgets.planning.parts import StreamingPlan
    from ollm_widgets.weights.experts.streaming import ExpertStreaming
    from ollm_widgets.weights.filling import Filler
    from ollm_widgets.weights.homes import LayerHome
    from ollm_widgets.weights.model.structure import DecoderStructure
    from ollm_widgets.weights.reading.reader import WeightReader
    from ollm_widgets.weights.trace import Recorder


class Arrangement:
    """The layers of each device, and the crossings between devices.

    Each device has a ring of its own, so that several wires carry at once: while one device
    computes, the layers of the next one come.

    Parameters
    ----------
    homes
        Where each layer is, in the order of a pass.
    structure
        The layers themselves.
    reader, filler
        Read what is on disk; make page-locked buffers.
    device, streaming
        Where a pass begins and ends, and how layers come to a device.
    """

    def __init__(
        self,
        homes: Sequence[LayerHome],
        structure: DecoderStructure,
        *,
        reader: WeightReader,
        filler: Filler,
        device: torch.device,
        streaming: StreamingPlan,
    ) -> None:
        groups: dict[torch.device, dict[int, LayerHome]] = defaultdict(dict)
        for index, home in enumerate(homes):
            groups[home.device][index] = home
        self._parts = {
            own: DeviceLayers(
                group, structure, reader=reader, filler=filler, device=own, streaming=streaming
            )
            for own, group in groups.items()
        }
        self._of = [self._parts[home.device] for home in homes]
        self._crossing: DeviceCrossing | None = None
        if set(groups) != {device}:
            devices = [home.device for home in homes]
            self._crossing = DeviceCrossing(structure.layers, devices, device)

    # ------------------------------------------------------------------ a pass

    def streams(self, index: int) -> bool:
        """Whether layer `index` comes to its device in each pass."""
        return self._of[index].streams(index)

    def take(self, index: int, cancel: threading.Event | None, recorder: Recorder | None) -> None:
        """Let what is computed from now on find layer `index` in its memory."""
        self._of[index].take(index, cancel, recorder)

    def give_back(self, index: int) -> None:
        """Say that all work on layer `index` is enqueued."""
        self._of[index].give_back(index)

    def cancel_with(self, cancel: threading.Event | None) -> None:
        """Let an event end reads of experts that are under way."""
        for part in self._parts.values():
            part.cancel_with(cancel)

    # ------------------------------------------------------------------ captured steps

    @property
    def resident(self) -> bool:
        """Whether nothing moves in a pass."""
        return all(part.resident for part in self._parts.values())

    @property
    def capturable(self) -> bool:
        """Whether a pass does nothing but what one accelerator can be told in advance."""
        return self._crossing is None and all(part.capturable for part in self._parts.values())

    def settle(self) -> None:
        """Bring the rings to where a captured step begins."""
        for part in self._parts.values():
            part.settle()

    def fork(self) -> None:
        """Begin a captured step."""
        for part in self._parts.values():
            part.fork()

    def join(self) -> None:
        """End a captured step."""
        for part in self._parts.values():
            part.join()

    def forget(self) -> None:
        """Take nothing for granted that was issued in a capture which was given up."""
        for part in self._parts.values():
            part.forget()

    def between_steps(self) -> None:
        """Bring the experts that are used most near; no step may run."""
        for part in self._parts.values():
            part.between_steps()

    # ------------------------------------------------------------------ looking at it

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffers on the devices that compute."""
        return sum(part.device_bytes for part in self._parts.values())

    @property
    def staging_bytes(self) -> int:
        """Bytes of the buffers in host memory beside accelerators."""
        return sum(part.staging_bytes for part in self._parts.values())

    @property
    def experts(self) -> tuple[ExpertStreaming, ...]:
        """The layers of which only the chosen experts move, one a device that has some."""
        return tuple(part.experts for part in self._parts.values() if part.experts is not None)

    def close(self) -> None:
        """Let the buffers go."""
        if self._crossing is not None:
            self._crossing.remove()
        for part in self._parts.values():
            part.close()
