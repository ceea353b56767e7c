"""Plans of models that see: what is refused, what is counted, and what a person is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.runtime.loader import RuntimeLoader
from tests.runtime.seeing_models import GEMMA3, save_seeing


@pytest.fixture(scope="module")
def images(model: ResolvedModel) -> ResolvedModel:
    """A model shaped like SmolLM2-135M that sees."""
    profile = replace(model.capabilities, modalities=("text", "image"))
    return replace(model, generic_model_kind="image-text-to-text", capabilities=profile)


@pytest.mark.parametrize("backend", ["optimized-native", "transformers-generic", None])
def test_each_backend_gives_images_to_a_model_that_sees(
    plan: Any, images: ResolvedModel, backend: str | None
) -> None:
    made = plan(images, backend=backend, multimodal=True)
    assert made.is_executable()
    assert made.backend_id == (backend or "optimized-native")
    said = "\n".join(made.details)
    assert "Images are taken: the vision part is on the device that computes" in said
    assert "multimodal=True" in made.to_code()


def test_without_asking_for_images_nothing_is_said_of_them(
    plan: Any, images: ResolvedModel
) -> None:
    assert "Images are taken" not in "\n".join(plan(images).details)


def test_the_generic_backend_names_the_way_to_run_an_image_model(
    plan: Any, images: ResolvedModel
) -> None:
    made = plan(images, backend="transformers-generic")
    assert not made.is_executable()
    assert "runs models of kind causal-lm; this one is image-text-to-text" in made.reason
    assert "It runs with multimodal=True." in made.reason


def test_a_metal_device_runs_models_that_see_with_transformers(
    plan: Any, images: ResolvedModel, laptop: Machine
) -> None:
    gib = 1024**3
    metal = replace(laptop, accelerators=(Device("mps", "mps", "GPU", 16 * gib, 16 * gib, True),))
    made = plan(images, metal, multimodal=True)
    assert made.is_executable()
    assert (made.backend_id, made.device) == ("transformers-generic", "mps")
    # That gives them no text alone, so that stays where it runs.
    as_text = plan(images, metal)
    assert as_text.is_executable()
    assert (as_text.backend_id, as_text.device) == ("optimized-native", "cpu")


def test_a_model_that_hears_only_is_not_given_images(plan: Any, model: ResolvedModel) -> None:
    profile = replace(model.capabilities, modalities=("text", "audio"))
    made = plan(replace(model, capabilities=profile), multimodal=True)
    assert not made.is_executable()
    assert "multimodal: audio is not given to models in this version." in made.reason


def test_a_missing_library_is_said_before_anything_loads(
    plan: Any, images: ResolvedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    made = plan(images, multimodal=True)
    assert not made.is_executable()
    assert "pip install 'ollm-widgets[images]'" in made.reason
    assert plan(images).is_executable()


def test_the_vision_part_is_counted(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    folder = save_seeing(GEMMA3, tmp_path / "model")
    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    all_bytes = sum(each.numel() * 4 for each in whole.parameters())
    vision_bytes = sum(
        each.numel() * 4
        for name, each in whole.named_parameters()
        if "vision" in name or "projector" in name
    )
    assert vision_bytes
    for backend in ("optimized-native", "transformers-generic"):
        config = RuntimeConfig(
            folder, device="cpu", dtype="float32", multimodal=True, backend=backend
        )
        tier = RuntimeLoader().plan(config).memory.tier("ram")
        assert tier is not None
        assert tier.embeddings_bytes > vision_bytes
        assert tier.layers_bytes + tier.embeddings_bytes == all_bytes
