"""Recording what one stream does as a CUDA graph, and leaving no trace where that fails."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from ollm_widgets.weights.steps.waiting import NoWaiting


class GraphRecorder:
    """Holds graphs that share their memory, and the stream that they are captured on.

    They run one at a time, and none reads what another has left.

    Parameters
    ----------
    device
        Where kernels run; without CUDA nothing can be recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def on_its_stream(self) -> Iterator[None]:
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

    def record(
        self, step: Callable[[], None], *, join: Callable[[], None], forget: Callable[[], None]
    ) -> Callable[[], None]:
        """Capture `step` on the current stream, beside what is held; what replays it.

        Parameters
        ----------
        step
            Enqueues work, and waits for none.
        join
            Called when `step` has raised: a forked stream has to be joined before a capture may
            end.
        forget
            Called when nothing of what was enqueued will ever run.
        """
        graph = torch.cuda.CUDAGraph()
        pool = self._graphs[0].pool() if self._graphs else torch.cuda.graph_pool_handle()
        # Not for the whole device: what the graph will read may still be on its way there.
        torch.cuda.current_stream().synchronize()
        # A collection in the midst of it could free device memory, which ends a capture.
        with _no_collection():
            # Of this thread only: other models may run meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                with NoWaiting(self.device, deep=False):
                    step()
            except BaseException:
                join()
                self._give_up(graph, pool)
                forget()
                raise
            try:
                graph.capture_end()
            except RuntimeError:
                self._clean_up(graph, pool)
                forget()
                raise
        self._graphs.append(graph)
        return graph.replay

    def drop(self) -> bool:
        """Let go of the graphs; whether there were any."""
        graphs, self._graphs = self._graphs, []
        if graphs:
            torch.cuda.synchronize(self.device)
        for graph in graphs:
            graph.reset()
        return bool(graphs)

    def close(self) -> None:
        """Let go of the graphs, and leave the stream to the next one."""
        self.drop()
        stream, self._stream = self._stream, None
        if stream is not None:
            _idle_streams(stream.device.index).append(stream)

    def _give_up(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        """End a capture that will not be used; no stream stays capturing."""
        try:
            graph.capture_end()
            graph.reset()
        except RuntimeError:
            self._clean_up(graph, pool)

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
