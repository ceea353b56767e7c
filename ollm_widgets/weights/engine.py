"""The engine: an unmodified model whose layers live in several tiers and meet at the device."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import ConfigError, SpecializationLoadError
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.weights.arrangement import Arrangement
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.quantized import only_transformers_expands
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.demotion import LayersDemotion, Moves
from ollm_widgets.weights.engine_memory import EngineMemory, measure_engine
from ollm_widgets.weights.filling import Filler
from ollm_widgets.weights.hooks import LayerHooks
from ollm_widgets.weights.host_copies import HostCopies
from ollm_widgets.weights.matching import lay_out_layers, refuse_unmatched
from ollm_widgets.weights.model.binding import bind, unbind
from ollm_widgets.weights.model.expanding import forget_quantization
from ollm_widgets.weights.model.structure import decoder_structure
from ollm_widgets.weights.placing import RANK, Placer
from ollm_widgets.weights.prefill.chunked import ChunkedPrefill
from ollm_widgets.weights.reading.reader import WeightReader
from ollm_widgets.weights.reading.spilling import SpillFolder
from ollm_widgets.weights.trace import PassTrace, Recorder
from ollm_widgets.weights.window_stream import Count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
    from ollm_widgets.weights.homes import LayerHome

# Enough to take a disk, or the page cache, to its limit.
_READERS = 8
# Called with the bytes read so far and those there are.
ByteProgress = Callable[[int, int], None]


class WeightEngine:
    """Owns the weights of one model. One thread at a time may use it.

    Parameters
    ----------
    model
        A skeleton, with its parameters on ``meta``.
    folder
        The checkpoint.
    device
        Where the model computes.
    placement
        The tier of each layer. On a CPU ``host`` layers stay in memory.
    streaming
        How the layers that are elsewhere come to the device.

    Raises
    ------
    SpecializationLoadError
        If the model or the checkpoint does not match.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path,
        *,
        device: torch.device,
        placement: LayerPlacement,
        streaming: StreamingPlan,
    ) -> None:
        self.model = model
        self.device = device
        self.structure = decoder_structure(model)
        self.notes: list[str] = []
        self._wanted = placement
        self._streaming = streaming
        self._on_cpu = device.type == "cpu"
        refuse_unmatched(model, self.structure, placement)
        index = CheckpointIndex.of(folder)
        recipes = recipes_for(model, index)
        forget_quantization(model)
        self._note_expanded(recipes)
        self._homes, self._other = lay_out_layers(self.structure, recipes, streaming)
        self._settle_on(placement)
        self._missing = set(model.state_dict()) - set(recipes)
        # Where the processor computes too, more threads than it has only get in its way.
        threads = min(_READERS, max(os.cpu_count() or 2, 2)) if self._on_cpu else _READERS
        self._reader = WeightReader(index, threads=threads, direct=streaming.read_direct)
        self._filler = Filler(self._reader)
        self._spill = SpillFolder(index, self._reader)
        copies = HostCopies()
        self._placer = Placer(
            self._filler, self._spill, on_cpu=self._on_cpu, pack=streaming.packed, copies=copies
        )
        self.demotion = LayersDemotion(
            model,
            self.structure.layers,
            self._homes,
            copies,
            kind=device.type,
            moves=Moves(self._take_apart, self._arrange, self._lower, self._note_lowered),
        )
        self._other_bytes = 0
        self._arranged: Arrangement | None = None
        self._hooks = LayerHooks(self.structure.layers, self._homes)
        self._before_move: list[Callable[[], None]] = []
        self._prefill: ChunkedPrefill | None = None

    def _note_expanded(self, recipes: dict[str, TensorRecipe]) -> None:
        """Say what does not move as it is stored, where the rest of the layers does."""
        in_layers = [
            recipe for name, recipe in recipes.items() if name.startswith(f"{self.structure.path}.")
        ]
        expanded = sum(map(only_transformers_expands, in_layers))
        moving = self._streaming.stored_slot_bytes or any(each.quantized for each in in_layers)
        if expanded and moving:
            self.notes.append(
                f"{expanded} quantized tensors of its layers are expanded when they are loaded: "
                "only transformers knows their format."
            )

    # ------------------------------------------------------------------ loading

    def load(self, progress: ByteProgress, cancel: threading.Event) -> None:
        """Bring every weight to its tier.

        Raises
        ------
        Cancelled
            Soon after `cancel` is set; nothing stays in memory.
        OutOfMemory, WeightReadError, CheckpointChangedError
            When a tier is too small after all, or the files cannot be read.
        """
        try:
            count, device = self._counter(progress), self.device
            other = self._filler.resident(self._other, device, cancel, count)
            self._other_bytes = other.numel()
            bind(self.model, self._other.layout.views(other))
            self.model.tie_weights(missing_keys=self._missing, recompute_mapping=False)
            self._refuse_empty_tensors()
            for home, tier in zip(self._homes, self._wanted.tiers, strict=True):
                self._placer.bring(home, tier, cancel, count)
            self._filler.settle(cancel)
            self._filler.rest()
            self._arrange()
        except BaseException:
            self.close()
            raise
        self._note_lowered(self._placer.lowered)

    def _note_lowered(self, layers: int) -> None:
        if layers:
            self.notes.append(
                f"{layers} layers are in host memory that were planned on the accelerator, which "
                "ran out of memory."
            )

    def _refuse_empty_tensors(self) -> None:
        start = f"{self.structure.path}."
        empty = [
            name
            for name, tensor in self.model.named_parameters()
            if tensor.is_meta and not name.startswith(start)
        ]
        if empty:
            raise SpecializationLoadError(
                f"The checkpoint has nothing for {len(empty)} tensors, {empty[0]} among them, "
                "which transformers would make up."
            )

    def _counter(self, progress: ByteProgress) -> Count:
        kept = zip(self._homes, self._wanted.tiers, strict=True)
        total = self._other.read_layout.size_bytes + sum(
            home.read_bytes for home, tier in kept if tier != "disk"
        )
        done = 0

        def count(more_bytes: int) -> None:
            nonlocal done
            done += more_bytes
            progress(done, total)

        count(0)
        return count

    # ------------------------------------------------------------------ where layers are

    @property
    def placement(self) -> LayerPlacement:
        """Where each layer is now."""
        devices = tuple(str(home.device) for home in self._homes)
        alone = set(devices) == {str(self.device)}
        return LayerPlacement(tuple(home.tier for home in self._homes), () if alone else devices)

    @property
    def layer_bytes(self) -> tuple[int, ...]:
        """Raw bytes of each layer."""
        return tuple(home.size_bytes for home in self._homes)

    def _settle_on(self, placement: LayerPlacement) -> None:
        """Give each layer the device that it is to compute on."""
        for index, home in enumerate(self._homes):
            home.device = (
                torch.device(placement.devices[index]) if placement.devices else self.device
            )

    def rebalance(
        self, placement: LayerPlacement, cancel: threading.Event | None = None
    ) -> LayerPlacement:
        """Move layers between tiers without loading the model again; no request may run.

        Parameters
        ----------
        placement
            The tier wanted for each layer; the devices stay.

        Returns
        -------
        LayerPlacement
            The tiers as they are then: one lower where the accelerator was full.

        Raises
        ------
        Cancelled, OutOfMemory, WeightReadError
            Between two layers; every layer is somewhere, and the model works.
        """
        cancel = cancel or threading.Event()
        self._dissolve()
        try:
            pairs = list(zip(self._homes, placement.tiers, strict=True))
            # What makes room goes first.
            for home, tier in sorted(pairs, key=lambda pair: RANK[pair[1]]):
                if home.tier != tier:
                    self._placer.move(home, tier, cancel)
        finally:
            self._filler.rest()
            self.demotion.forget_moved()
            self._arrange()
        return self.placement

    def make_room(self, device: torch.device | None = None) -> int:
        """Move a tenth of the layers off an accelerator, two at least; no request may run.

        Parameters
        ----------
        device
            The one that is full; None takes layers of any.

        Returns
        -------
        int
            How many layers went; 0 when none is left there.
        """
        tiers = list(self.placement.tiers)
        kept = [
            index
            for index, home in enumerate(self._homes)
            if home.tier == "accelerator" and device in (None, home.device)
        ]
        moving = kept[-max(2, len(tiers) // 10) :]
        if not moving or self._on_cpu:
            return 0
        for index in moving:
            tiers[index] = "host"
        self.rebalance(LayerPlacement(tuple(tiers), self.placement.devices))
        self.notes.append(
            f"The accelerator ran out of memory: {len(moving)} layers moved to host memory."
        )
        return len(moving)

    def before_move(self, call: Callable[[], None]) -> None:
        """Have `call` called before addresses of weights change."""
        self._before_move.append(call)

    def _arrange(self) -> None:
        """Arrange the layers, fewer on an accelerator that is too full for the buffers."""
        while self._arranged is None:
            try:
                self._arranged = Arrangement(
                    self._homes,
                    self.structure,
                    reader=self._reader,
                    filler=self._filler,
                    device=self.device,
                    streaming=self._streaming,
                )
            except torch.OutOfMemoryError as error:
                # The buffers that there was room for go before a layer does.
                traceback.clear_frames(error.__traceback__)
                self._unbind_layers()
                if not self._lower_last():
                    raise
        self._hooks.install(self._arranged)

    def _lower_last(self) -> bool:
        """Move the last layer that is on an accelerator to host memory, if there is one."""
        kept = [home for home in self._homes if home.tier == "accelerator"]
        if not kept:
            return False
        self._lower(kept[-1])
        torch.cuda.empty_cache()
        return True

    def _lower(self, home: LayerHome) -> None:
        # What is still being copied into its memory would be copied into somebody else's.
        self.demotion.settle()
        self._placer.move(home, "host", threading.Event())
        self._placer.lowered += 1

    def _unbind_layers(self) -> None:
        # A parameter that still looks at a buffer would keep it while others are made.
        for layer in self.structure.layers:
            unbind(layer)

    def _dissolve(self) -> None:
        for call in self._before_move:
            call()
        self._take_apart()

    def _take_apart(self) -> None:
        self._hooks.remove()
        arranged, self._arranged = self._arranged, None
        if arranged is not None:
            arranged.close()
            self._filler.unlock()
        self._unbind_layers()

    # ------------------------------------------------------------------ a pass

    @contextmanager
    def request(self, cancel: threading.Event) -> Iterator[None]:
        """Let waits for weights end with `Cancelled` once `cancel` is set."""
        self._hooks.cancel = cancel
        if self._arranged is not None:
            self._arranged.cancel_with(cancel)
        try:
            yield
        finally:
            self._hooks.cancel = None
            if self._arranged is not None:
                self._arranged.cancel_with(None)

    def chunk_prompts(self, rows: int | None) -> None:
        """Send prompts through each layer in chunks of `rows` tokens; None sends them whole."""
        if self._prefill is not None:
            self._prefill.remove()
        self._prefill = ChunkedPrefill(self.structure, self.model, rows)
        self._prefill.install()

    @property
    def arranged(self) -> Arrangement:
        """How layers meet the device now.

        Raises
        ------
        RuntimeError
            Before `load` and after `close`.
        """
        if self._arranged is None:
            raise RuntimeError("the model's weights are not loaded")
        return self._arranged

    # What captured steps call; each placement is another arrangement.

    def settle(self) -> None:
        """Bring streamed layers to where a captured step begins."""
        self.arranged.settle()

    def fork(self) -> None:
        """Begin a captured step."""
        self.arranged.fork()

    def join(self) -> None:
        """End a captured step."""
        self.arranged.join()

    def forget(self) -> None:
        """Take nothing for granted that was issued in a capture which was given up."""
        self.arranged.forget()

    # ------------------------------------------------------------------ looking at it

    @property
    def tracing(self) -> bool:
        """Whether passes are recorded."""
        return self._hooks.recorder is not None

    @property
    def recorder(self) -> Recorder | None:
        """What records passes now; None while nothing does."""
        return self._hooks.recorder

    def start_trace(self, passes: int = 256) -> None:
        """Record where the time of each pass goes, from now on.

        Raises
        ------
        ConfigError
            If passes are recorded already.
        """
        if self.tracing:
            raise ConfigError(
                "trace",
                "This model is being traced already.",
                hint="Use the trace that is open, or close it first.",
            )
        self._hooks.recorder = Recorder(self.device, passes)
        self._hooks.install(self.arranged)

    def stop_trace(self) -> tuple[PassTrace, ...]:
        """Stop recording, and return the passes since `start_trace`."""
        recorder, self._hooks.recorder = self._hooks.recorder, None
        if self._arranged is not None:
            self._hooks.install(self._arranged)
        return () if recorder is None else recorder.traces()

    def memory(self) -> EngineMemory:
        """Measure the weights, by tier and kind."""
        return measure_engine(
            self._homes,
            0 if self.demotion.demoted else self._other_bytes,
            self._arranged,
            on_cpu=self._on_cpu,
        )

    @property
    def packed_layers(self) -> int:
        """Layers that are held packed in host memory."""
        return sum(home.dense.packed is not None for home in self._homes)

    def close(self) -> None:
        """Give all memory, threads and files back; the model is a skeleton again."""
        self._dissolve()
        if self._prefill is not None:
            self._prefill.remove()
        unbind(self.model)
        for home in self._homes:
            home.clear()
        self._other_bytes = 0
        self.demotion.close()
        self._filler.close()
        self._reader.close()
        self._spill.close()
