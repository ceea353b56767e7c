"""What a runtime on another machine gives back when it is closed, or nobody holds it any more."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref

from ollm_widgets.cluster.client.calls import Calls
from ollm_widgets.cluster.far.outbox import Outbox
from ollm_widgets.errors import OllmError

_UNLOADS_S = 30.0
_THREADS_END_S = 10.0


class Stake:
    """The claim of one runtime on a model; it does not know the runtime.

    Parameters
    ----------
    calls
        To the registry.
    key
        The model.
    outbox
        Requests under way.

    Attributes
    ----------
    closed
        Whether it was given back.
    others
        Whether the model stayed in memory then, since somebody else uses it or the cluster was
        left.
    """

    def __init__(self, calls: Calls, key: str, outbox: Outbox) -> None:
        self.closed = False
        self.others = False
        self._calls = calls
        self._key = key
        self._outbox = outbox
        self._closing = threading.Lock()
        self._finalizer: weakref.finalize[..., object] | None = None

    def follow(self, owner: object) -> None:
        """Give it back when nobody holds `owner` any more."""
        self._finalizer = weakref.finalize(owner, self._drop)
        # The kernel's end leaves the cluster as a whole; models stay on their nodes.
        self._finalizer.atexit = False

    def close(self) -> None:
        """Cancel what runs and give the claim up; hosts unload what nobody else claims."""
        self._outbox.close(_THREADS_END_S)
        with self._closing:
            if self.closed:
                return
            self.closed = True
            if self._finalizer is not None:
                self._finalizer.detach()
            with contextlib.suppress(OllmError, TimeoutError):
                self.others = not self._calls.post.ask(
                    self._calls.end_use(self._key), None, _UNLOADS_S
                )

    def _drop(self) -> None:
        """Give it back from wherever the collector happens to run: nothing is waited for."""
        self._outbox.let_go()
        self._calls.post.begin(functools.partial(self._calls.end_use, self._key))
