"""How prompts with images are compared, and what a pass behind them is given."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import PretrainedConfig

from ollm_widgets.runtime.image_inputs import ImageInputs

IMAGE = 9
CONFIG = PretrainedConfig(image_token_id=IMAGE)
PIXELS = torch.arange(12.0).reshape(1, 3, 2, 2)


def inputs_of(ids: list[int], pixels: torch.Tensor = PIXELS, **more: torch.Tensor) -> ImageInputs:
    types = torch.tensor([[int(token == IMAGE) for token in ids]])
    given = {"pixel_values": pixels, "mm_token_type_ids": types, **more}
    return ImageInputs.of(given, torch.tensor([ids]), CONFIG)


def test_the_places_of_an_image_are_compared_by_its_pixels() -> None:
    ids = [4, IMAGE, IMAGE, 5]
    one, same, other = (inputs_of(ids, pixels) for pixels in (PIXELS, PIXELS.clone(), PIXELS + 1))
    assert one.marked(ids) == same.marked(ids) == [4, one.mark, one.mark, 5]
    assert other.mark != one.mark
    assert one.mark < 0
    assert one.stop == 3


def test_what_follows_an_image_does_not_change_it() -> None:
    ids = [4, IMAGE, 5]
    assert inputs_of(ids).mark == inputs_of([*ids, 6, 7]).mark


@given(st.sampled_from([torch.float64, torch.float16]), st.sampled_from([(12,), (1, 3, 4, 1)]))
def test_the_same_bytes_in_another_form_are_another_image(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    ids = [IMAGE]
    assert inputs_of(ids, PIXELS.to(dtype)).mark != inputs_of(ids).mark
    assert inputs_of(ids, PIXELS.reshape(shape)).mark != inputs_of(ids).mark


def test_where_the_places_are_not_known_nothing_is_continued() -> None:
    ids = [4, 7, 7, 5]
    images = ImageInputs.of({"pixel_values": PIXELS}, torch.tensor([ids]), PretrainedConfig())
    assert images.stop == len(ids)
    assert set(images.marked(ids)) == {images.mark}


def test_behind_the_images_only_positions_need_them() -> None:
    model = nn.Linear(1, 1, dtype=torch.bfloat16)
    model.dtype, model.device = torch.bfloat16, torch.device("cpu")  # type: ignore[assignment]
    ids = [4, IMAGE, 5, 6]
    plain = inputs_of(ids)
    assert plain.given(0, model)["pixel_values"].dtype == torch.bfloat16
    assert plain.given(0, model)["mm_token_type_ids"].dtype == torch.int64
    assert plain.given(2, model) == {}
    gridded = inputs_of(ids, image_grid_thw=torch.tensor([[1, 2, 2]]))
    assert set(gridded.given(3, model)) == {"mm_token_type_ids", "image_grid_thw"}
    with pytest.raises(ValueError, match="midst"):
        plain.given(1, model)


def test_a_prompt_that_has_grown_has_text_behind_its_images() -> None:
    images = inputs_of([4, IMAGE, 5])
    grown = images.continued(2)
    assert grown.inputs["mm_token_type_ids"].tolist() == [[0, 1, 0, 0, 0]]
    assert grown.mark == images.mark
    assert torch.equal(grown.inputs["pixel_values"], PIXELS)
