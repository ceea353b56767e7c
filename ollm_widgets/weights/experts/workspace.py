"""Memory of the computing device through which the experts of all streamed layers pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from ollm_widgets.errors import OutOfMemory
from ollm_widgets.weights.experts.sources import (
    ExpertSource,
    ExpertTensor,
    stacked_bytes,
    stacked_views,
)


class WholeLayer:
    """Room for every expert of one layer at its own place, and whose experts are there.

    Weights do not change, so what one call brought serves the next one of the same layer: a prompt
    that passes the layer in chunks moves no expert twice.
    """

    def __init__(self, size_bytes: int, experts: int, device: torch.device) -> None:
        # Zeros: what no call has filled yet may be multiplied by a weight of zero.
        self.buffer = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
        self.present = torch.zeros(experts, dtype=torch.bool, device=device)
        self.holder: ExpertSource | None = None
        self.held: set[int] = set()
        self.ready: torch.cuda.Event | None = None
        self.used: torch.cuda.Event | None = None
        self.note_used()

    def give(self, holder: ExpertSource) -> None:
        """Let another layer have the room, on the current stream; nothing of it is there."""
        self.wait()
        self.holder = holder
        self.held.clear()
        self.present.zero_()

    def wait(self) -> None:
        """Let the current stream wait for copies that were started ahead of time."""
        if self.ready is not None:
            torch.cuda.current_stream(self.buffer.device).wait_event(self.ready)
            self.ready = None

    def note_used(self) -> None:
        """Remember that the current stream has used the room up to here."""
        if self.buffer.device.type == "cuda":
            self.used = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.used.record(torch.cuda.current_stream(self.buffer.device))


class ExpertWorkspace:
    """Compact room for a few chosen experts, and whole layers where most are chosen.

    Parameters
    ----------
    sources
        Of every layer that will use it.
    slots
        Experts in the compact room: at least as many as one token chooses.
    device
        The computing device.
    whole_layers
        How many whole layers may be on the device: 0 for never, which makes long prompts pass in
        pieces of ``slots // chosen`` tokens; 1; or 2, so that the next layer comes while one
        computes. Their memory is taken when a prompt first needs it.
    """

    def __init__(
        self,
        sources: Sequence[ExpertSource],
        *,
        slots: int,
        device: torch.device,
        whole_layers: int = 1,
    ) -> None:
        self.device = device
        self.slots = slots
        self.cancel: threading.Event | None = None
        self._whole_layers = whole_layers
        self._experts = max((source.experts for source in sources), default=0)
        self._whole_bytes = self.whole_bytes_of(sources)
        self._compact = torch.zeros(
            self.compact_bytes_of(sources, slots), dtype=torch.uint8, device=device
        )
        self._held = torch.zeros(
            self.held_bytes_of(sources, slots), dtype=torch.uint8, device=device
        )
        self._staging_bytes = _most_bytes([each.tensors for each in sources], slots)
        self.chosen = torch.full((slots,), -1, dtype=torch.int64, device=device)
        self.remapped = torch.zeros(slots, dtype=torch.int64, device=device)
        self._staging: torch.Tensor | None = None
        self._staged: torch.cuda.Event | None = None
        self._areas: list[WholeLayer] = []

    @staticmethod
    def compact_bytes_of(sources: Sequence[ExpertSource], slots: int) -> int:
        """Bytes of the compact room, for plans."""
        return _most_bytes([each.form.made for each in sources], slots)

    @staticmethod
    def held_bytes_of(sources: Sequence[ExpertSource], slots: int) -> int:
        """Bytes of the room for experts that are expanded from there; 0 where none are."""
        return _most_bytes([each.tensors for each in sources if each.form.expands], slots)

    @staticmethod
    def whole_bytes_of(sources: Sequence[ExpertSource]) -> int:
        """Bytes of one whole layer, for plans."""
        return max((stacked_bytes(each.form.made, each.experts) for each in sources), default=0)

    @property
    def offers_whole_layers(self) -> bool:
        """Whether a layer's experts may all be on the device."""
        return self._whole_layers > 0

    @property
    def device_bytes(self) -> int:
        """Bytes taken on the device up to now."""
        whole = sum(area.buffer.numel() + area.present.numel() for area in self._areas)
        return self._compact.numel() + self._held.numel() + 16 * self.slots + whole

    @property
    def host_bytes(self) -> int:
        """Bytes of staging in host memory taken up to now."""
        return 0 if self._staging is None else self._staging.numel()

    def compact(self, source: ExpertSource, rows: int) -> dict[str, torch.Tensor]:
        """Tensors ``[rows, *row_shape]`` by name; whoever called before loses its rows."""
        return stacked_views(self._compact, source.form.made, rows)

    def held(self, source: ExpertSource, rows: int) -> dict[str, torch.Tensor]:
        """Room for experts as they are held, to be expanded from there: ``[rows, ...]`` by name.

        At most `slots` rows; whoever called before loses its own.
        """
        return stacked_views(self._held, source.tensors, rows)

    def whole(self, source: ExpertSource) -> WholeLayer:
        """The whole layer that holds a source's experts, or the one that was not used last."""
        area = next((area for area in self._areas if area.holder is source), None)
        if area is None:
            full = len(self._areas) == self._whole_layers
            area = self._areas[0] if full else self._new_area()
            area.give(source)
        self._areas = [each for each in self._areas if each is not area] + [area]
        return area

    def spare(self, source: ExpertSource) -> WholeLayer | None:
        """Another room than the one in use, to bring a source's experts ahead of time.

        None where there is no other, or it has them already.
        """
        if self._whole_layers < 2 or any(area.holder is source for area in self._areas):
            return None
        if len(self._areas) < self._whole_layers:
            self._areas.insert(0, self._new_area())
        return self._areas[0]

    def free_whole_layers(self) -> None:
        """Give the memory of whole layers back; the next long prompt takes it again."""
        for area in self._areas:
            area.wait()
        self._areas.clear()

    def staging(self, source: ExpertSource) -> dict[str, torch.Tensor]:
        """Host tensors ``[slots, *row_shape]``, pinned for CUDA, once they may be overwritten."""
        if self._staging is None:
            pinned = self.device.type == "cuda"
            with torch.inference_mode(False):
                self._staging = torch.empty(
                    self._staging_bytes, dtype=torch.uint8, device="cpu", pin_memory=pinned
                )
        if self._staged is not None:
            self._staged.synchronize()
            self._staged = None
        return stacked_views(self._staging, source.tensors, self.slots)

    def note_staged(self) -> None:
        """Remember the copies out of the staging that were just put on the current stream."""
        if self.device.type == "cuda":
            self._staged = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._staged.record()

    def close(self) -> None:
        """Free everything."""
        self.free_whole_layers()
        self._compact = self._held = self._compact.new_empty(0)
        self.chosen = self.remapped = self.chosen.new_empty(0)
        self._staging = self._staged = None
        self.slots = 0

    def _new_area(self) -> WholeLayer:
        try:
            # What is made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                return WholeLayer(self._whole_bytes, self._experts, self.device)
        except torch.OutOfMemoryError as error:
            free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0
            raise OutOfMemory(
                f"All experts of a layer take {self._whole_bytes / 2**30:.2f} GiB on "
                f"{self.device}, of which {free / 2**30:.2f} are free.",
                tier=str(self.device),
                needed_bytes=self._whole_bytes,
                free_bytes=free,
                hint="Keep fewer layers or experts on the accelerator.",
            ) from error


def _most_bytes(each: Sequence[Sequence[ExpertTensor]], rows: int) -> int:
    return max((stacked_bytes(tensors, rows) for tensors in each), default=0)
