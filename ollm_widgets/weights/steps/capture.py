"""Decode steps as captured CUDA graphs: one launch a token, copies of streamed layers included.

The step is captured once, on the empty cache, and replayed for every token of every request
that fits. Its inputs and its length live on the device, and it feeds its own choice back, so a
greedy answer needs nothing from the host. A model that cannot be captured runs eagerly over the
same cache, and `refusal` says why.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.weights.steps.eager import EagerSteps, decode_experts
from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache
from ollm_widgets.weights.steps.fused import fused_norms
from ollm_widgets.weights.steps.joined import joined, observed_siblings
from ollm_widgets.weights.steps.waiting import CannotCapture, NoWaiting, NumbersOnDevice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Attention over a buffer that is only partly filled needs a mask, which these two honour.
_MASKED_ATTENTION = frozenset({"sdpa", "eager"})
# The most that a replayed step may differ from the same step run eagerly, as a share of the
# logits' norm: above the noise of kernels that add in another order, far below a wrong step.
_TOLERANCE = 0.05


class CapturedSteps(EagerSteps):
    """Runs prompts eagerly and steps as a captured graph, over the same cache.

    Parameters
    ----------
    model
        The model, ready to compute.
    device
        Where it computes.
    planned_tokens
        See `EagerSteps`.
    before_step, after_step
        Called at the start and the end of the captured region, for work on other streams: they
        fork and join it.
    settle
        Called outside of any capture before a step that follows something else, so that
        streamed layers are where a captured step expects them.
    forget
        Called when a capture was given up, as what was issued in it never ran.
    fuse
        Run RMS norms as one kernel, and projections of the same input as one product, inside
        captured steps; within the rounding of the dtype.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        planned_tokens: int | None = None,
        before_step: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
        settle: Callable[[], None] | None = None,
        forget: Callable[[], None] | None = None,
        fuse: bool = False,
    ) -> None:
        super().__init__(model, device, planned_tokens=planned_tokens)
        self.refusal: str | None = None
        self._before_step = before_step or _nothing
        self._after_step = after_step or _nothing
        self._settle = settle or _nothing
        self._forget = forget or _nothing
        self._fuse = fuse
        self._replay: Callable[[], None] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def captured(self) -> bool:
        """Whether steps run as a captured graph now."""
        return self._replay is not None

    @torch.inference_mode()
    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for one request and capture the step where that has not been done.

        See `EagerSteps.begin`. Calling it when a model has been loaded spares the first request
        the capture.
        """
        super().begin(batch, tokens, padded=padded, keep=keep)
        if not keep and self._replay is None and self.refusal is None:
            self._capture()

    def drop(self) -> None:
        """Let go of cache and graph; needed before any address in the model changes."""
        held = self._drop_graph()
        super().drop()
        if held:
            torch.cuda.empty_cache()

    def _drop_graph(self) -> bool:
        """Let go of the graph; whether there was one."""
        self._replay = None
        graph, self._graph = self._graph, None
        if graph is not None:
            torch.cuda.synchronize(self.device)
            graph.reset()
        return graph is not None

    def close(self) -> None:
        """Give all memory back."""
        self.drop()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        stream, self._stream = self._stream, None
        if stream is not None:
            _idle_streams(stream.device.index).append(stream)

    def _run_step(self) -> None:
        kv = self._cache
        if self._replay is None or not isinstance(kv, FixedCache):
            super()._run_step()
            return
        if not kv.clock.ticking:
            self._settle()
            kv.tick(self.tokens)
        self._replay()

    # ------------------------------------------------------------------ capturing

    def _capture(self) -> None:
        try:
            self._refuse_what_cannot_be()
            self._replay = self._captured_step()
        except CannotCapture as error:
            self.refusal = str(error)
        except torch.OutOfMemoryError:
            self.drop()
            raise
        except Exception as error:
            self.refusal = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        except BaseException:
            self.drop()
            raise
        if self.refusal is not None:
            self._drop_graph()
        self._reset()

    def _refuse_what_cannot_be(self) -> None:
        if not self._can_record():
            raise CannotCapture("captured steps need a CUDA device")
        if not isinstance(self._cache, FixedCache):
            reason = fixed_cache(self.model.config, self.capacity, self.device)
            raise CannotCapture(str(reason))
        attention = self.model.config.get_text_config(decoder=True)._attn_implementation
        if attention not in _MASKED_ATTENTION:
            raise CannotCapture(f"{attention} attention does not stop at the last token")

    def _can_record(self) -> bool:
        return self.device.type == "cuda"

    def _captured_step(self) -> Callable[[], None]:
        """Warm up, capture, and check that a replay does what the eager step did."""
        with decode_experts(self.model, capturing=True), self._on_its_stream(), self._fused():
            # Before anything is captured: kernels are chosen and compiled, memory is taken.
            with observed_siblings(self.model) as siblings:
                first = self._from_start(self._static_step)
            with joined(siblings if self._fuse else ()):
                with NoWaiting(self.device):
                    second = self._then(self._static_step)
                self._settle()
                replay = self._record(self._static_step)
        again = self._from_start(replay)
        for eager, replayed in ((first, again), (second, self._then(replay))):
            if not _alike(eager, replayed):
                raise CannotCapture("a replayed step does not repeat the eager one")
        return replay

    def _static_step(self) -> None:
        """One step that reads and writes nothing but what stays at its address."""
        kv = self._cache
        self._before_step()
        if self._positions is not None:
            self._positions.add_(1)
        with NumbersOnDevice():
            self._choose(self._forward(self._token_ids, self._mask, self._positions))
        if isinstance(kv, FixedCache):
            kv.clock.position.add_(1)
        self._after_step()

    def _from_start(self, step: Callable[[], None]) -> torch.Tensor:
        """Run the first step of an empty cache; its logits."""
        kv = self._cache
        if not isinstance(kv, FixedCache):
            raise TypeError("only a fixed cache can be stepped through")
        kv.reset()
        ones = torch.ones_like(self._token_ids)
        if self._padded and self._mask is None:
            self._mask = ones.new_ones(self._batch, self.capacity)
        positions = self._positions_of(self._token_ids, ones)
        if positions is not None and self._positions is None:
            self._positions = positions[..., -1:].clone(memory_format=torch.contiguous_format)
        if self._positions is not None:
            self._positions.fill_(-1)
        kv.tick(0)
        return self._then(step, token=1)

    def _then(self, step: Callable[[], None], token: int = 2) -> torch.Tensor:
        """Run one more step; its logits."""
        self._token_ids.fill_(token)
        self._settle()
        step()
        return self._logits.clone()

    @contextmanager
    def _fused(self) -> Iterator[None]:
        with fused_norms(self.model) if self._fuse else contextlib.nullcontext():
            yield

    @contextmanager
    def _on_its_stream(self) -> Iterator[None]:
        """Warm up on the stream that captures, so that its workspaces exist by then."""
        if self.device.type != "cuda":
            yield
            return
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            own = self._own_stream()
            own.wait_stream(current)
            try:
                with torch.cuda.stream(own):
                    yield
            finally:
                current.wait_stream(own)

    def _own_stream(self) -> torch.cuda.Stream:
        # Always the same one: what it has allocated can only be reused on it.
        if self._stream is None:
            idle = _idle_streams(torch.cuda.current_device())
            self._stream = idle.pop() if idle else torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return self._stream

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture `step` on the current stream; what replays it."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        # A collection in the midst of it could free device memory, which ends a capture.
        with _no_collection():
            # Of this thread only: other models may run meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                with NoWaiting(self.device, deep=False):
                    step()
            except BaseException:
                self._give_up(graph, pool)
                raise
            try:
                graph.capture_end()
            except RuntimeError:
                self._clean_up(graph, pool)
                self._forget()
                raise
        self._graph = graph
        return graph.replay

    def _give_up(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        """End a capture that will not be used; no stream stays capturing."""
        # A forked stream has to be joined before a capture may end.
        with contextlib.suppress(Exception):
            self._after_step()
        try:
            graph.capture_end()
            graph.reset()
        except RuntimeError:
            self._clean_up(graph, pool)
        self._forget()

    def _clean_up(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        """Do what torch leaves undone when CUDA has invalidated a capture.

        Its allocator still serves the capture's pool, and the default generator still counts
        for the capture (`CUDAGraph::capture_end` stops at the first error).
        """
        # The allocators may go on asking this graph whether a stream is its own.
        _invalidated().append(graph)
        index = torch.cuda.current_device()
        for call in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            with contextlib.suppress(AttributeError, RuntimeError):
                getattr(torch._C, call)(index, pool)
        with contextlib.suppress(AttributeError, RuntimeError):
            generator = torch.cuda.default_generators[index]
            fresh = torch.Generator(device=self.device)
            fresh.manual_seed(generator.initial_seed())
            generator.graphsafe_set_state(fresh.graphsafe_get_state())


@cache
def _idle_streams(_device: int) -> list[torch.cuda.Stream]:
    """Streams that nobody captures on now.

    cuBLAS keeps a workspace for every stream that it has seen, and a graph goes on using the one
    of its capture: so no two runners share a stream, and one that has closed leaves its own to
    the next.
    """
    return []


@cache
def _invalidated() -> list[torch.cuda.CUDAGraph]:
    """Graphs that must not be destroyed."""
    return []


@contextmanager
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _alike(eager: torch.Tensor, replayed: torch.Tensor) -> bool:
    eager, replayed = eager.float(), replayed.float()
    difference = torch.linalg.vector_norm(eager - replayed)
    return bool(difference <= _TOLERANCE * torch.linalg.vector_norm(eager))


def _nothing() -> None:
    """Do nothing."""
