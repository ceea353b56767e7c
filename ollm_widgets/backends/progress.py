"""Turning transformers' progress bar into bytes, and into a place where a load can stop."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ollm_widgets.backends.base import LoadProgress, ProgressSink, check_cancelled
from ollm_widgets.models.tensors import read_safetensors_header


def tensor_sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk of each tensor in the safetensors files of `folder`."""
    return {
        tensor.name: tensor.size_bytes
        for path in sorted(folder.glob("*.safetensors"))
        for tensor in read_safetensors_header(path)
    }


def weight_counter(
    sizes: dict[str, int], progress: ProgressSink, cancel: threading.Event
) -> type[Any]:
    """Make the class that `from_pretrained(tqdm_class=...)` wraps its loop over tensors in.

    Parameters
    ----------
    sizes
        Bytes by checkpoint name. A name that a conversion has changed counts as the mean,
        so that the sum stays right within a tensor.
    progress
        Called after each tensor, in stage "Read weights".
    cancel
        Ends the loop with `Cancelled` before the next tensor.
    """
    total_bytes = sum(sizes.values())

    class WeightCounter:
        """Iterates like tqdm over (name, mapping) pairs."""

        def __init__(self, iterable: Iterable[Any] | None = None, **_options: Any) -> None:
            self._items = list(iterable or ())

        def __iter__(self) -> Iterator[Any]:
            mean_bytes = total_bytes // max(len(self._items), 1)
            done_bytes = 0
            for item in self._items:
                check_cancelled(cancel)
                yield item
                name = item[0] if isinstance(item, tuple) else ""
                done_bytes = min(done_bytes + sizes.get(name, mean_bytes), total_bytes)
                progress(LoadProgress("Read weights", done_bytes, total_bytes))
            progress(LoadProgress("Read weights", total_bytes, total_bytes))

        def __enter__(self) -> WeightCounter:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

        def update(self, _count: int = 1) -> None:
            """Part of tqdm's interface; each tensor has been counted already."""

        def close(self) -> None:
            """Part of tqdm's interface; there is nothing to close."""

    return WeightCounter
