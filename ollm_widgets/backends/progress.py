"""Turning transformers' progress bar into bytes, and into a place where a load can stop."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ollm_widgets.backends.base import LoadProgress, ProgressSink, check_cancelled
from ollm_widgets.models.tensors import read_safetensors_header

# What stands in for a progress bar on the thread that loads; other threads keep theirs.
_counter: ContextVar[Callable[[Iterable[Any]], Any] | None] = ContextVar(
    "ollm_weight_counter", default=None
)


def tensor_sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk of each tensor in the safetensors files of `folder`."""
    return {
        tensor.name: tensor.size_bytes
        for path in sorted(folder.glob("*.safetensors"))
        for tensor in read_safetensors_header(path)
    }


@contextmanager
def counted_weights(
    sizes: dict[str, int], progress: ProgressSink, cancel: threading.Event
) -> Iterator[None]:
    """Report the tensors that `from_pretrained` reads while the context is open.

    Parameters
    ----------
    sizes
        Bytes by checkpoint name. A name that a conversion has changed counts as the mean,
        so that the sum stays right within a tensor.
    progress
        Called after each tensor, in stage "Read weights".
    cancel
        Ends the load with `Cancelled` before the next tensor.
    """
    _install_hook()
    token = _counter.set(lambda items: WeightCounter(items, sizes, progress, cancel))
    try:
        yield
    finally:
        _counter.reset(token)


class WeightCounter:
    """Iterates over (name, mapping) pairs in place of a progress bar."""

    def __init__(
        self,
        items: Iterable[Any],
        sizes: dict[str, int],
        progress: ProgressSink,
        cancel: threading.Event,
    ) -> None:
        self._items = list(items)
        self._sizes = sizes
        self._progress = progress
        self._cancel = cancel

    def __iter__(self) -> Iterator[Any]:
        total_bytes = sum(self._sizes.values())
        mean_bytes = total_bytes // max(len(self._items), 1)
        done_bytes = 0
        for item in self._items:
            check_cancelled(self._cancel)
            yield item
            name = item[0] if isinstance(item, tuple) else ""
            done_bytes = min(done_bytes + self._sizes.get(name, mean_bytes), total_bytes)
            self._progress(LoadProgress("Read weights", done_bytes, total_bytes))
        self._progress(LoadProgress("Read weights", total_bytes, total_bytes))


@functools.cache
def _install_hook() -> None:
    """Let transformers ask `_counter` first; once a process, ahead of any earlier hook."""
    from transformers.utils import logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        counter = _counter.get()
        if counter is not None and args:
            return counter(args[0])
        if earlier is not None:
            return earlier(factory, args, kwargs)
        return factory(*args, **kwargs)

    earlier = logging.set_tqdm_hook(hook)
