from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.uint8, torch.bool)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


def recipe(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> TensorRecipe:
    return TensorRecipe(name, dtype, shape, (), None)


@given(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=8))
def test_tensors_are_aligned_and_lie_apart(
    tensors: list[tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    recipes = [recipe(f"m.{n}", dtype, shape) for n, (dtype, shape) in enumerate(tensors)]
    layout = LayerLayout.of("m", recipes)
    assert [slot.name for slot in layout.slots] == [str(n) for n in range(len(tensors))]
    assert layout.size_bytes % 512 == 0
    end = 0
    for slot, (dtype, shape) in zip(layout.slots, tensors, strict=True):
        assert slot.offset_bytes % 512 == 0
        assert slot.offset_bytes >= end
        assert slot.size_bytes == math.prod(shape) * dtype.itemsize
        end = slot.offset_bytes + slot.size_bytes
    assert end <= layout.size_bytes
    views = layout.views(torch.zeros(layout.size_bytes, dtype=torch.uint8))
    found = [(view.dtype, tuple(view.shape)) for view in views.values()]
    assert found == tensors


def test_a_layer_takes_its_own_tensors_and_names_them_within_it() -> None:
    names = ("layers.1.mlp.up", "layers.10.mlp.up", "layers.1.norm", "norm")
    recipes = [recipe(name, torch.float32, (2,)) for name in names]
    layout = LayerLayout.of("layers.1", recipes)
    assert [slot.name for slot in layout.slots] == ["mlp.up", "norm"]
    assert len(LayerLayout.of("", recipes).slots) == 4


def test_views_are_the_buffer_itself() -> None:
    layout = LayerLayout.of("", [recipe("a", torch.int32, (2, 2)), recipe("b", torch.bool, (1,))])
    buffer = torch.zeros(layout.size_bytes + 100, dtype=torch.uint8)
    views = layout.views(buffer)
    views["a"].copy_(torch.tensor([[1, 2], [3, 4]]))
    views["b"].fill_(True)
    assert buffer[:16].view(torch.int32).tolist() == [1, 2, 3, 4]
    assert buffer[512] == 1


@pytest.mark.parametrize(
    "buffer",
    [
        torch.zeros(511, dtype=torch.uint8),
        torch.zeros(512, dtype=torch.int8),
        torch.zeros(2, 512, dtype=torch.uint8),
        torch.zeros(1024, dtype=torch.uint8)[::2],
    ],
)
def test_a_buffer_that_does_not_fit_is_refused(buffer: torch.Tensor) -> None:
    layout = LayerLayout.of("", [recipe("a", torch.int32, (2, 2))])
    with pytest.raises(ValueError, match=r"The buffer .*(512|uint8)"):
        layout.views(buffer)
