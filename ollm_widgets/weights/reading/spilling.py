"""Tensors that transformers' operations make, converted once for layers that stay on disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import OutOfMemory
from ollm_widgets.settings import cache_dir
from ollm_widgets.weights.checkpoint.index import CheckpointIndex, TensorSpan
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import Piece

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import TensorSlot
    from ollm_widgets.weights.reading.reader import WeightReader


class SpillFolder:
    """Keeps converted tensors on disk while a model is loaded.

    A layer that is read in each pass would convert in each pass. Most checkpoints need no
    conversion, and then no folder is made; of those that do only the converted tensors are here.

    Parameters
    ----------
    index
        Learns of the files, so that they are watched like those of the checkpoint.
    reader
        Reads and converts.
    """

    def __init__(self, index: CheckpointIndex, reader: WeightReader) -> None:
        self._index = index
        self._reader = reader
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def without_conversions(self, layout: LayerLayout, cancel: threading.Event) -> LayerLayout:
        """Return the layout with every converted tensor taken from a file of ours.

        Raises
        ------
        Cancelled, WeightReadError, CheckpointChangedError
            As of a read.
        OutOfMemory
            If the cache folder has no room for a converted tensor.
        """
        slots = tuple(
            slot if slot.recipe.conversion is None else self._spilled(slot, cancel)
            for slot in layout.slots
        )
        return layout if slots == layout.slots else LayerLayout(slots, layout.size_bytes)

    def close(self) -> None:
        """Delete the files."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _spilled(self, slot: TensorSlot, cancel: threading.Event) -> TensorSlot:
        recipe = slot.recipe
        buffer = torch.empty(slot.size_bytes, dtype=torch.uint8)
        alone = LayerLayout((replace(slot, offset_bytes=0),), slot.size_bytes)
        self._reader.read(alone, buffer).wait(cancel)
        try:
            path = self._new_file()
            buffer.numpy().tofile(path)
        except OSError as error:
            raise _no_room(recipe.name, slot.size_bytes, error) from error
        self._index.add_file(path)
        dtype = str(recipe.dtype).removeprefix("torch.")
        span = TensorSpan(recipe.name, path, 0, slot.size_bytes, dtype, recipe.shape)
        whole = Piece(span, 0, slot.size_bytes, 0)
        return replace(slot, recipe=replace(recipe, pieces=(whole,), conversion=None))

    def _new_file(self) -> Path:
        if self._folder is None:
            parent = cache_dir() / "spilled"
            parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix="weights-", dir=parent)
        folder = Path(self._folder.name)
        return folder / f"{len(list(folder.iterdir()))}.bin"


def _no_room(name: str, needed_bytes: int, error: OSError) -> OutOfMemory:
    free_bytes = shutil.disk_usage(tempfile.gettempdir()).free
    with contextlib.suppress(OSError):
        free_bytes = shutil.disk_usage(cache_dir()).free
    return OutOfMemory(
        f"{name} is converted once for reading it from disk, and its "
        f"{needed_bytes / 1e9:.2f} GB cannot be written: {error.strerror or error}.",
        tier="disk",
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
        hint="Free some space in the cache folder, or keep more layers in memory.",
    )
