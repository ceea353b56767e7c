"""A layer cut into windows is the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import ALIGNMENT_BYTES, LayerLayout
from ollm_widgets.weights.checkpoint.recipe import Piece, TensorRecipe
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from ollm_widgets.weights.checkpoint.windows import Window, windows
from ollm_widgets.weights.reading.reader import WeightReader
from tests.models.architectures import Architecture
from tests.weights.checkpoints import index_of, model_on_meta
from tests.weights.streamed_models import DECODERS

sizes = st.integers(1, 64).map(lambda units: units * ALIGNMENT_BYTES)
real_files = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_tiles(cut: Iterable[Window], layout: LayerLayout) -> None:
    end = 0
    for window in cut:
        assert window.start_bytes == end
        end += window.layout.size_bytes
    assert end == layout.size_bytes


def read_whole(layout: LayerLayout, reader: WeightReader) -> dict[str, torch.Tensor]:
    buffer = torch.full((layout.size_bytes,), 0xAA, dtype=torch.uint8)
    reader.read(layout, buffer).wait()
    return layout.views(buffer)


def read_in_windows(
    layout: LayerLayout, reader: WeightReader, window_bytes: int
) -> dict[str, torch.Tensor]:
    target = torch.full((layout.size_bytes,), 0x55, dtype=torch.uint8)
    for window in windows(layout, window_bytes):
        size = window.layout.size_bytes
        buffer = torch.full((size,), 0xBB, dtype=torch.uint8)
        reader.read(window.layout, buffer).wait()
        target[window.start_bytes : window.start_bytes + size] = buffer
    return layout.views(target)


def assert_same_bytes(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        assert torch.equal(got[name].contiguous().view(-1).view(torch.uint8), flat), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_layer_of_any_architecture_is_the_same_in_windows(
    architecture: Architecture, dtype: torch.dtype, folder_of: Callable[[Architecture], Path]
) -> None:
    folder = folder_of(architecture)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(model_on_meta(folder, dtype, architecture.kind), index)
    layout = LayerLayout.of("", recipes.values())
    with WeightReader(index, threads=2) as reader:
        wanted = read_whole(layout, reader)
        for window_bytes in (ALIGNMENT_BYTES, 3 * ALIGNMENT_BYTES, 1024**2):
            assert_tiles(windows(layout, window_bytes), layout)
            assert_same_bytes(read_in_windows(layout, reader, window_bytes), wanted)


@st.composite
def made_of_pieces(draw: st.DrawFn, index: CheckpointIndex) -> list[TensorRecipe]:
    """Tensors put together out of runs of others, cast or not, in any order."""
    recipes = []
    for number in range(draw(st.integers(1, 6))):
        stored = draw(st.sampled_from(sorted({span.dtype for span in index.spans.values()})))
        spans = [span for span in index.spans.values() if span.dtype == stored]
        item = getattr(torch, stored).itemsize
        pieces: list[Piece] = []
        position = 0
        for _ in range(draw(st.integers(0, 5))):
            span = draw(st.sampled_from(spans))
            elements = span.size_bytes // item
            first = draw(st.integers(0, elements - 1))
            count = draw(st.integers(1, elements - first))
            pieces.append(Piece(span, first * item, count * item, position))
            position += count
        dtypes = [torch.float32, torch.bfloat16, getattr(torch, stored)]
        shuffled = tuple(draw(st.permutations(pieces)))
        recipes.append(
            TensorRecipe(f"t{number}", draw(st.sampled_from(dtypes)), (position,), shuffled, None)
        )
    return recipes


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> CheckpointIndex:
    torch.manual_seed(0)
    return index_of(
        tmp_path_factory.mktemp("pool"),
        small=torch.randn(1),
        odd=torch.randn(77),
        half=torch.randn(1003).to(torch.bfloat16),
        long=torch.randn(5000).to(torch.bfloat16),
        wide=torch.randn(40, 31),
    )


@real_files
@given(data=st.data(), window_bytes=sizes)
def test_any_layout_is_the_same_in_windows_of_any_size(
    pool: CheckpointIndex, data: st.DataObject, window_bytes: int
) -> None:
    layout = LayerLayout.of("", data.draw(made_of_pieces(pool)))
    assert_tiles(windows(layout, window_bytes), layout)
    for window in windows(layout, window_bytes):
        assert window.layout.size_bytes <= max(window_bytes, ALIGNMENT_BYTES)
    with WeightReader(pool, threads=2) as reader:
        got = read_in_windows(layout, reader, window_bytes)
        assert_same_bytes(got, read_whole(layout, reader))
