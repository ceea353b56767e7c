"""One model at a time is built: transformers changes what the whole process sees meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ollm_widgets.errors import Cancelled

_WAIT_SLICE_S = 0.1
_BUILDING = threading.Lock()


@contextmanager
def building(cancel: threading.Event | None = None) -> Iterator[None]:
    """Have transformers to oneself.

    It sets torch's default dtype while it builds a model, and puts back what it found: of two
    threads that do so at once, the second finds what the first has set, and leaves that behind. Its
    names come in from its files when they are first asked for, which two threads have seen fail.

    Raises
    ------
    Cancelled
        When `cancel` is set while somebody else builds.
    """
    while not _BUILDING.acquire(timeout=_WAIT_SLICE_S):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Loading was cancelled.")
    try:
        yield
    finally:
        _BUILDING.release()
