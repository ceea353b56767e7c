"""Layers that stream from the checkpoint one after the other, without a pause between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ollm_widgets.errors import Cancelled, CheckpointChangedError, WeightReadError
from ollm_widgets.weights import window_stream
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import ALIGNMENT_BYTES, LayerLayout
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.reading.reader import PendingRead, WeightReader
from ollm_widgets.weights.window_stream import WINDOWS, WindowStream
from tests.models.architectures import Architecture
from tests.weights.checkpoints import as_it_is, index_of, model_on_meta
from tests.weights.streamed_models import MIXTURES

NEVER = threading.Event()
WINDOW_BYTES = 4 * ALIGNMENT_BYTES
LAYERS = 3
# Two layers are under way at once, a third has to wait.
WINDOWS_A_LAYER = WINDOWS // 2


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_stream, "WINDOW_BYTES", WINDOW_BYTES)


@pytest.fixture
def index(tmp_path: Path) -> CheckpointIndex:
    torch.manual_seed(0)
    elements = WINDOWS_A_LAYER * WINDOW_BYTES // 4
    layers = {f"{number}.weight": torch.randn(elements) for number in range(LAYERS)}
    return index_of(tmp_path / "layers", **layers)


def layouts_of(index: CheckpointIndex) -> list[LayerLayout]:
    return [
        LayerLayout.of(f"{number}", [as_it_is(index.spans[f"{number}.weight"])])
        for number in range(LAYERS)
    ]


class StuckReader(WeightReader):
    """Keeps what it was asked for, and reads nothing before it is told to."""

    def __init__(self, index: CheckpointIndex) -> None:
        super().__init__(index, threads=1)
        self.go = threading.Event()
        self.asked: list[PendingRead] = []
        self._pool.submit(self.go.wait)

    def read(self, layout: LayerLayout, buffer: torch.Tensor) -> PendingRead:
        self.asked.append(super().read(layout, buffer))
        return self.asked[-1]


@contextmanager
def stream_of(index: CheckpointIndex) -> Iterator[tuple[WindowStream, WeightReader]]:
    with WeightReader(index, threads=2) as reader:
        stream = WindowStream(reader)
        yield stream, reader
        stream.stop()


@contextmanager
def stuck_stream_of(index: CheckpointIndex) -> Iterator[tuple[WindowStream, StuckReader]]:
    with StuckReader(index) as reader:
        try:
            yield WindowStream(reader), reader
        finally:
            reader.go.set()


def empty(layout: LayerLayout) -> torch.Tensor:
    return torch.full((layout.size_bytes,), 0xAA, dtype=torch.uint8)


def whole(layout: LayerLayout, reader: WeightReader) -> torch.Tensor:
    buffer = empty(layout)
    WeightReader.read(reader, layout, buffer).wait()
    return buffer


def nothing(_size_bytes: int) -> None:
    """Nobody counts."""


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_layers_come_whole_and_are_counted(device: str, index: CheckpointIndex) -> None:
    counted: list[int] = []
    # Often enough that every buffer is used again and again.
    layouts = 8 * layouts_of(index)
    with stream_of(index) as (stream, reader):
        targets = [empty(layout).to(device) for layout in layouts]
        for layout, target in zip(layouts, targets, strict=True):
            stream.send(layout, target, NEVER, counted.append)
        stream.settle(NEVER)
        for layout, target in zip(layouts, targets, strict=True):
            assert torch.equal(target.cpu(), whole(layout, reader))
    assert sum(counted) == sum(layout.size_bytes for layout in layouts)


def test_the_next_layer_is_asked_for_while_the_last_one_is_still_under_way(
    index: CheckpointIndex,
) -> None:
    came: list[int] = []
    first, second, _ = layouts_of(index)
    with stuck_stream_of(index) as (stream, reader):
        stream.send(first, empty(first), NEVER, came.append)
        assert len(reader.asked) == WINDOWS_A_LAYER
        stream.send(second, empty(second), NEVER, came.append)
        assert len(reader.asked) == 2 * WINDOWS_A_LAYER
        assert not came
        reader.go.set()
        stream.settle(NEVER)
    assert len(came) == 2 * WINDOWS_A_LAYER


@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_tensors_that_are_converted_come_whole_however_large(
    architecture: Architecture,
    folder_of: Callable[[Architecture], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_stream, "WINDOW_BYTES", ALIGNMENT_BYTES)
    folder = folder_of(architecture)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(model_on_meta(folder, torch.float32, architecture.kind), index)
    layout = LayerLayout.of("", recipes.values())
    with stream_of(index) as (stream, reader):
        target = empty(layout)
        stream.send(layout, target, NEVER, nothing)
        stream.settle(NEVER)
        wanted = layout.views(whole(layout, reader))
        for name, tensor in layout.views(target).items():
            assert torch.equal(tensor, wanted[name]), name


def bring_all(
    stream: WindowStream, layouts: Sequence[LayerLayout], cancel: threading.Event
) -> list[torch.Tensor]:
    targets = [empty(layout) for layout in layouts]
    for layout, target in zip(layouts, targets, strict=True):
        stream.send(layout, target, cancel, nothing)
    stream.settle(cancel)
    return targets


def test_a_layer_that_cannot_be_read_is_said_and_others_come_after(index: CheckpointIndex) -> None:
    (path,) = index.identities
    aside = path.with_name("aside")
    layouts = layouts_of(index)
    with stream_of(index) as (stream, reader):
        path.rename(aside)
        with pytest.raises((CheckpointChangedError, WeightReadError)):
            bring_all(stream, layouts[:1], NEVER)
        aside.rename(path)
        (target,) = bring_all(stream, layouts[:1], NEVER)
        assert torch.equal(target, whole(layouts[0], reader))


def test_a_layer_that_cannot_be_read_ends_those_that_follow_it(index: CheckpointIndex) -> None:
    (path,) = index.identities
    os.truncate(path, path.stat().st_size // 2)
    with stream_of(index) as (stream, _):
        with pytest.raises((CheckpointChangedError, WeightReadError)):
            bring_all(stream, layouts_of(index), NEVER)
        stream.settle(NEVER)


@pytest.mark.parametrize("layers", [2, 3], ids=["in the end", "before the next"])
def test_a_cancel_ends_the_wait_and_nothing_is_written_any_more(
    layers: int, index: CheckpointIndex
) -> None:
    cancel = threading.Event()
    first, *others = layouts_of(index)[:layers]
    with stuck_stream_of(index) as (stream, reader):
        target = empty(first)
        stream.send(first, target, cancel, nothing)
        cancel.set()
        with pytest.raises(Cancelled):
            bring_all(stream, others, cancel)
        # What had no buffer was not asked for.
        assert len(reader.asked) == WINDOWS
        assert all(read.done() for read in reader.asked)
        reader.go.set()
        stream.settle(NEVER)
        assert torch.equal(target, empty(first))
