"""The processor of a model that sees, from its folder alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ollm_widgets.backends.processor import load_processor
from ollm_widgets.errors import MalformedModelError, UnsupportedModelError
from tests.runtime.seeing_models import (
    IDEFICS3,
    QWEN2_VL,
    SEEING,
    SeeingModel,
    asking,
    picture,
    save_seeing,
)


@pytest.mark.parametrize("model", SEEING, ids=str)
def test_each_family_has_its_own_processor(model: SeeingModel, tmp_path: Path) -> None:
    processor = load_processor(save_seeing(model, tmp_path / "model"))
    assert type(processor).__name__ == model.processor["processor_class"]
    given = processor.apply_chat_template(
        asking("w5", picture(1)), tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert given["pixel_values"].isfinite().all()
    places = given["input_ids"] == model.architecture.settings["image_token_id"]
    assert int(places.sum()) >= 4


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision reads videos here"
)
def test_images_need_no_library_for_videos(tmp_path: Path) -> None:
    folder = save_seeing(QWEN2_VL, tmp_path / "model")
    assert load_processor(folder).video_processor is None
    # A checkpoint whose files name no processor has that of its model.
    (folder / "processor_config.json").unlink()
    assert type(load_processor(folder)).__name__ == "Qwen2VLProcessor"


def test_a_tokenizer_alone_is_no_processor(saved_llama: Path) -> None:
    with pytest.raises(MalformedModelError, match=r"takes no images\. Set multimodal=False"):
        load_processor(saved_llama)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = save_seeing(QWEN2_VL, tmp_path / "model")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises((MalformedModelError, UnsupportedModelError), match="JSON"):
        load_processor(folder)


@pytest.mark.skipif(
    importlib.util.find_spec("num2words") is not None, reason="what it needs is installed"
)
def test_what_a_processor_needs_beside_pillow_is_named(tmp_path: Path) -> None:
    folder = save_seeing(IDEFICS3, tmp_path / "model")
    for name in ("processor_config.json", "preprocessor_config.json"):
        said = (folder / name).read_text()
        (folder / name).write_text(said.replace("Idefics3", "SmolVLM"))
    with pytest.raises(UnsupportedModelError, match=r"num2words.*multimodal=False"):
        load_processor(folder)
