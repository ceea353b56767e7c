"""Image-text models given text only, from the folder to the tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from ollm_widgets.runtime.loader import RuntimeLoader
from tests.models.architectures import ARCHITECTURES, save

IMAGE_MODELS = tuple(a for a in ARCHITECTURES if a.kind == "image-text-to-text")
PROMPT = [[5, 9, 33, 17, 8, 41]]
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=IMAGE_MODELS, ids=str)
def folder(
    request: pytest.FixtureRequest, saved_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path: Path = tmp_path_factory.mktemp("images") / request.param.model_type
    save(request.param, saved_llama, path)
    return path


def inspect(path: Path) -> ResolvedModel:
    return inspect_materialized_model(str(path), path, "local-path")


def test_the_profile_says_how_images_are_taken(folder: Path) -> None:
    model = inspect(folder)
    profile = model.capabilities
    assert profile.support_level == "optimized"
    assert profile.supports_specialization
    assert profile.modalities == ("text", "image")
    assert profile.reason_for("image") is None
    terms = {row.term: row.text for row in model.card().rows}
    assert terms["Images"] == "yes, with multimodal=True"
    assert "Audio" not in terms


@pytest.mark.parametrize("layers_in_ram", [None, 0, 1])
def test_tokens_are_those_of_transformers_without_an_image(
    folder: Path, layers_in_ram: int | None
) -> None:
    from transformers import AutoModelForImageTextToText

    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(PROMPT)
    with torch.no_grad():
        wanted = whole.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    config = RuntimeConfig(
        f"path:{folder}", device="cpu", dtype="float32", offload_cpu_layers=layers_in_ram
    )
    with RuntimeLoader().load(config) as runtime:
        assert runtime.plan.backend_id == "optimized-native"
        assert "multimodal-shell" in runtime.plan.applied_specialization_pass_ids
        if layers_in_ram is not None:
            assert runtime.plan.placement.disk_layers == 2 - layers_in_ram
        assert torch.equal(runtime.generate(ids, GenerationConfig(NEW_TOKENS)), wanted)
        assert runtime.complete("w5 w9 w33").text


def test_transformers_generic_gives_such_a_model_no_text_alone(folder: Path) -> None:
    config = RuntimeConfig(f"path:{folder}", backend="transformers-generic")
    plan = RuntimeLoader().plan(config)
    assert not plan.is_executable()
    assert "transformers-generic runs models of kind causal-lm" in plan.reason
    assert "It runs with multimodal=True" in plan.reason


def test_a_language_part_that_encodes_first_is_refused(
    folder: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(folder, is_encoder_decoder=True)
    model = inspect(folder)
    edit_config(folder, is_encoder_decoder=False)
    assert not model.is_supported()
    assert "an encoder and a decoder" in model.resolution_message


def test_what_the_native_backend_does_not_run_is_left_to_transformers(
    folder: Path, edit_config: Callable[..., None]
) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_config(folder, text_config={**text, "num_hidden_layers": 3, "layer_types": None})
    try:
        profile = inspect(folder).capabilities
        reference = f"path:{folder}"
        as_text = RuntimeLoader().plan(RuntimeConfig(reference))
        seeing = RuntimeLoader().plan(RuntimeConfig(reference, multimodal=True))
    finally:
        edit_config(folder, text_config=text)
    assert profile.support_level == "generic"
    why = profile.reason_for("supports_specialization") or ""
    assert "2 decoder layers, and the config announces 3" in why
    assert not as_text.is_executable()
    assert "It runs with multimodal=True" in as_text.reason
    assert seeing.backend_id == "transformers-generic"
    assert seeing.is_executable()
