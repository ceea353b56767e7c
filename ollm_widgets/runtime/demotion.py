"""A runtime leaves its accelerators for host memory, and comes back: weights, caches and steps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadProgress, ProgressSink
from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import OutOfMemory
from ollm_widgets.runtime.reuse import tokens_in

if TYPE_CHECKING:
    from transformers import Cache

    from ollm_widgets.backends.base import LoadedModel
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.own_caches import OwnCaches
    from ollm_widgets.weights.copy_streams import CopyStreams
    from ollm_widgets.weights.demotion import Demotable
    from ollm_widgets.weights.steps.aside import SetAside

RETURN_STAGE = "Return to the accelerator"


class Demotion:
    """Moves one loaded model; used on its own thread, between requests.

    Parameters
    ----------
    loaded
        The model.
    caches
        Its keys and values, which go with it.
    plan
        Gives its plan as it is now.
    """

    def __init__(
        self, loaded: LoadedModel, caches: OwnCaches, plan: Callable[[], RuntimePlan]
    ) -> None:
        self.keeps_host_copy = True
        self._plan = plan
        self._device = loaded.device
        self._weights = _weights_of(loaded)
        self._companion = _CachesAndSteps(loaded, caches)

    @property
    def possible(self) -> bool:
        """Whether something is on an accelerator, and can leave it."""
        return self._device.type == "cuda" and self._weights is not None

    @property
    def demoted(self) -> bool:
        """Whether it has left."""
        return self._weights is not None and self._weights.demoted

    @property
    def host_copies_bytes(self) -> int:
        """Bytes in host memory of what belongs, or is, on accelerators."""
        return 0 if self._weights is None else self._weights.host_copies_bytes

    def demote(self, cancel: threading.Event) -> None:
        """Leave; see `HeldModel.demote`."""
        if self._weights is None or self.demoted:
            return
        self._companion.save()
        self._weights.demote(self._companion, cancel)
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def restore(self, progress: ProgressSink | None, cancel: threading.Event) -> None:
        """Come back; see `HeldModel.restore`."""
        if self._weights is None or not self.demoted:
            return

        def report(done_bytes: int, total_bytes: int) -> None:
            if progress is not None:
                progress(LoadProgress(RETURN_STAGE, done_bytes, total_bytes))

        with as_out_of_memory(self._plan(), self._device):
            self._weights.restore(self._companion, report, cancel)
        if not self.keeps_host_copy:
            self.release_host_copy()

    def release_host_copy(self) -> None:
        """Let go of what the next demotion would use again."""
        if self._weights is not None:
            self._weights.release_host_copies()

    def close(self) -> None:
        """Let go of host memory; it cannot come back."""
        self._companion.close()
        if self._weights is not None:
            self._weights.close()


class _CachesAndSteps:
    """The `Companion` of a runtime's weights.

    Keys and values that lie in plain tensors are moved, and found as they were. Caches with tiers
    of their own are emptied instead: the next prompt is computed anew, or found on disk where it
    is kept there.
    """

    def __init__(self, loaded: LoadedModel, caches: OwnCaches) -> None:
        self._loaded = loaded
        self._caches = caches
        self._captured = False
        self._own: SetAside | None = None
        self._handed_out: SetAside | None = None

    def save(self) -> None:
        """Write what is to outlive the runtime."""
        own = self._caches.reuse_of(None) if self._caches.all() else None
        if own is not None:
            own.save()

    def leave(self) -> None:
        """See `Companion`."""
        steps = self._loaded.steps
        if steps is not None:
            self._captured = steps.leave() or self._captured
        if self._own is not None or self._handed_out is not None:
            for aside in self._asides():
                aside.leave_again()
            return
        handed_out = self._caches.shelf.all()
        own = [
            cache for cache in self._caches.all() if all(cache is not other for other in handed_out)
        ]
        self._handed_out = self._set_aside(handed_out, ())
        self._own = self._set_aside(own, () if steps is None else (steps,))

    def come_back(self, streams: CopyStreams) -> None:
        """See `Companion`."""
        import torch

        if self._handed_out is not None:
            self._handed_out.come_back(streams)
        if self._own is None:
            return
        try:
            self._own.come_back(streams)
        except torch.OutOfMemoryError:
            self._forget_own()
            return
        steps = self._loaded.steps
        if self._captured and steps is not None:
            # Without room for the graph now, the next request sees to it.
            with contextlib.suppress(OutOfMemory, torch.OutOfMemoryError):
                steps.capture_again()

    def arrived(self) -> None:
        """See `Companion`."""
        self._captured = False
        self.close()

    def close(self) -> None:
        """Let go of what is in host memory."""
        for aside in self._asides():
            aside.close()
        self._own = self._handed_out = None

    def _asides(self) -> list[SetAside]:
        return [each for each in (self._own, self._handed_out) if each is not None]

    def _set_aside(self, caches: Iterable[Cache], others: tuple[object, ...]) -> SetAside | None:
        import torch

        from ollm_widgets.weights.steps.aside import SetAside, can_leave

        for cache in caches:
            if not can_leave(cache):
                self._empty(cache)
        leaving = [cache for cache in caches if can_leave(cache)]
        try:
            return SetAside(leaving, others, self._loaded.device.type)
        except (OutOfMemory, torch.OutOfMemoryError):
            for cache in leaving:
                self._empty(cache)
            return None

    def _empty(self, cache: Cache) -> None:
        steps = self._loaded.steps
        if steps is not None and steps.cache is cache:
            steps.drop()
            return
        own = self._caches.reuse_of(None)
        if own is not None and own.cache is cache:
            own.forget()
            return
        handed_out = self._caches.reuse_of(cache)
        if handed_out is not None:
            handed_out.forget()
            return
        cache.reset()  # type: ignore[no-untyped-call]
        held = tokens_in(cache)
        if held:  # some releases of transformers write zeros, and keep their number
            cache.crop(-held)

    def _forget_own(self) -> None:
        aside, self._own = self._own, None
        if self._loaded.steps is not None:
            self._loaded.steps.drop()
        own = self._caches.reuse_of(None)
        if own is not None:
            own.forget()
        if aside is not None:
            aside.close()


def _weights_of(loaded: LoadedModel) -> Demotable | None:
    """What moves a model's weights; None where they cannot be moved."""
    if loaded.engine is not None:
        return loaded.engine.demotion
    import torch
    from torch import nn

    from ollm_widgets.weights.demotion import WholeModel

    # Tensors of a library's own kind may keep more than their bytes.
    known = (nn.Parameter, torch.Tensor)
    tensors = (*loaded.model.parameters(), *loaded.model.buffers())
    plain = all(type(tensor) in known for tensor in tensors)
    return WholeModel(loaded.model, loaded.device.type) if plain else None
