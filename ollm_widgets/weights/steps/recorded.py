"""Captured steps that stay captured while somebody traces them.

A step that is traced is captured once more, with moments inside it, beside the one without: both
share their memory, so the second one takes one pass of the model's Python and the nodes of a graph.
It stays until the first one goes, so that tracing again costs nothing. Which of the two runs is
decided for each token.

Moments are events that a replay records anew. Waiting for a streamed layer is what lies between
the computing stream's coming to the layer and its going on, so all of them are on that stream.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.weights.cuda import has_happened, new_event
from ollm_widgets.weights.steps.capture import CapturedSteps
from ollm_widgets.weights.steps.moments import Moment, Moments
from ollm_widgets.weights.steps.waiting import CannotCapture

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.weights.steps.fixed_cache import FixedCache
    from ollm_widgets.weights.trace import Recorder


class RecordedSteps(CapturedSteps):
    """Runs some of the captured steps with moments in them while there is a recorder.

    Parameters
    ----------
    model, device
        See `CapturedSteps`.
    recorder
        Gives the recorder that the model's layers are noted in; None while nobody traces.
    options
        What else `CapturedSteps` takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        recorder: Callable[[], Recorder | None],
        **options: Any,
    ) -> None:
        super().__init__(model, device, **options)
        # Why traced steps run one operation at a time, where others are captured.
        self.trace_refusal: str | None = None
        self._traced_by = recorder
        self._moments: Moments | None = None
        self._traced: tuple[Moments, Callable[[], None]] | None = None

    @torch.inference_mode()
    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for one request; see `CapturedSteps.begin`."""
        with self._unrecorded():
            super().begin(batch, tokens, padded=padded, keep=keep)

    def drop(self) -> None:
        """Let go of cache and graphs."""
        super().drop()
        self.trace_refusal = None

    def _drop_graph(self) -> bool:
        self._traced = None
        return super()._drop_graph()

    # ------------------------------------------------------------------ a step

    def _launch(self, kv: FixedCache) -> None:
        recorder = self._traced_by()
        if recorder is None or self._replay is None:
            super()._launch(kv)
            return
        if self._traced is None and self.trace_refusal is None:
            self._capture_traced(kv, recorder)
        if self._traced is None:
            # Hooks see the layers of a step that appends its token as a prompt does.
            kv.append(self.tokens)
            self._run_eagerly()
            recorder.explain(self.trace_refusal or self.refusal or "")
        elif recorder.takes_step():
            moments, replay = self._traced
            replay()
            recorder.replayed(moments, self.tokens, self._reached())
        else:
            super()._launch(kv)

    def _reached(self) -> Callable[[], bool]:
        """What tells whether the device is through with what was launched so far."""
        event = new_event()
        event.record(torch.cuda.current_stream(self.device))
        return partial(has_happened, event)

    # ------------------------------------------------------------------ capturing

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Let no pass of a capture be taken for one of a request."""
        recorder = self._traced_by()
        if recorder is None:
            yield
            return
        with recorder.aside():
            yield

    def _capture_anew(self, kv: FixedCache) -> None:
        with self._unrecorded():
            super()._capture_anew(kv)

    def _capture_traced(self, kv: FixedCache, recorder: Recorder) -> None:
        """Capture the step with moments, in the midst of a request: only what follows runs."""

        def beside() -> None:
            if not _has_events_inside_graphs():
                raise CannotCapture(f"torch {torch.__version__} has no events inside graphs")
            moments = Moments(1, self._moment, sparing=True)
            self._moments = moments
            try:
                with self._as_captured(), recorder.aside(moments):
                    self._settle()
                    self._traced = moments, self._record(self._static_step)
            except torch.OutOfMemoryError as error:
                raise CannotCapture("there is no memory for a second graph") from error
            finally:
                self._moments = None

        self.trace_refusal = self._refusal_of(beside)
        if self.trace_refusal is not None:
            # The graph without moments has gone with the other one.
            self._capture_anew(kv)

    def _finish_step(self, kv: FixedCache) -> None:
        if self._moments is None:
            super()._finish_step(kv)
            return
        self._moments.chosen()
        super()._finish_step(kv)
        self._moments.over()

    def _moment(self) -> Moment:
        """A moment of the current stream, recorded anew in each replay."""
        # An event of its own node in the graph, where others become edges between nodes.
        event = torch.cuda.Event(enable_timing=True, external=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _has_events_inside_graphs() -> bool:
    # An older torch does not know them; one built for HIP takes the argument and ignores it.
    known = "external" in inspect.signature(torch.cuda.Event.__new__).parameters
    return known and torch.version.hip is None
