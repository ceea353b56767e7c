from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.expert_families import STACKED_EXPERTS
from ollm_widgets.models.family_defaults import FAMILY_DEFAULTS
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.resolved import ResolvedModel
from tests.models.architectures import ARCHITECTURES, Architecture, save

EditConfig = Callable[..., None]
Checkpoint = Callable[[Architecture], tuple[Path, int]]


@pytest.fixture(scope="module")
def checkpoint(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Make a checkpoint when it is first asked for."""
    made: dict[str, tuple[Path, int]] = {}

    def make(architecture: Architecture) -> tuple[Path, int]:
        name = architecture.model_type
        if name not in made:
            folder = tmp_path_factory.mktemp("architectures") / name
            made[name] = folder, save(architecture, saved_llama, folder)
        return made[name]

    return make


def inspect(path: Path) -> ResolvedModel:
    return inspect_materialized_model(str(path), path, "local-path")


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_profile_says_what_the_checkpoint_is(
    architecture: Architecture, checkpoint: Checkpoint
) -> None:
    folder, parameters = checkpoint(architecture)
    assert find_gaps(folder) == ()
    model = inspect(folder)
    profile = model.capabilities
    assert model.architecture == architecture.model_class
    assert model.generic_model_kind == architecture.kind
    assert profile.modalities == architecture.modalities
    assert profile.requires_processor == (len(architecture.modalities) > 1)
    assert profile.parameters == parameters
    assert profile.bytes_on_disk == 2 * parameters
    assert profile.dtype == "bfloat16"
    assert profile.layers == architecture.layers
    assert profile.context_length == architecture.context
    assert (profile.experts, profile.active_experts) == architecture.experts
    assert profile.has_chat_template is True
    assert model.weights is not None
    assert len(model.weights.layer_bytes) == architecture.layers
    assert model.weights.embedding_parameters == 64 * 32


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_shape_is_the_models(architecture: Architecture, checkpoint: Checkpoint) -> None:
    shape = inspect(checkpoint(architecture)[0]).shape
    assert shape is not None
    assert shape.layers == architecture.layers
    assert shape.hidden_size == 32
    assert shape.vocab_size == 64
    assert shape.kv_heads * shape.head_dim == architecture.cached_width
    assert shape.layer_types == architecture.layer_types
    assert shape.sliding_window == architecture.sliding_window
    assert shape.tied_embeddings is architecture.tied


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_no_has_its_reason(architecture: Architecture, checkpoint: Checkpoint) -> None:
    model = inspect(checkpoint(architecture)[0])
    profile = model.capabilities
    if architecture.kind in NATIVE_KINDS:
        assert profile.support_level == "optimized"
        assert profile.reason_for("support_level") is None
    else:
        assert profile.support_level == "unsupported"
        assert profile.reason_for("support_level") == model.resolution_message
        assert f"{architecture.kind} is not built" in model.resolution_message
    assert profile.supports_disk_cache or profile.reason_for("supports_disk_cache")
    assert profile.supports_specialization or profile.reason_for("supports_specialization")
    assert bool(profile.reason_for("audio")) == ("audio" in profile.modalities)
    images_refused = "image" in profile.modalities and profile.support_level == "unsupported"
    assert bool(profile.reason_for("image")) == images_refused


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a.experts[0]], ids=str)
def test_the_experts_of_the_headers_are_those_that_the_engine_finds(
    architecture: Architecture, checkpoint: Checkpoint
) -> None:
    import torch

    from ollm_widgets.weights.model.skeleton import build_skeleton
    from ollm_widgets.weights.model.structure import decoder_structure

    folder, _ = checkpoint(architecture)
    weights = inspect(folder).weights
    assert weights is not None
    model = build_skeleton(folder, torch.bfloat16, torch.device("cpu"), architecture.kind)
    structure = decoder_structure(model)
    found = tuple(
        sum(p.numel() for p in layer.get_submodule(group.path).parameters()) if group else 0
        for layer, group in zip(structure.layers, structure.expert_groups, strict=True)
    )
    assert weights.expert_parameters == found
    assert weights.expert_bytes == tuple(2 * count for count in found)
    assert architecture.model_type in STACKED_EXPERTS


@pytest.mark.parametrize(
    "architecture", [a for a in ARCHITECTURES if a.kind == "causal-lm"][::3], ids=str
)
def test_what_is_called_runnable_loads_and_runs(
    architecture: Architecture, checkpoint: Checkpoint
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint(architecture)[0], dtype=torch.float32)
    logits = model(input_ids=torch.tensor([[1, 2]])).logits
    assert logits.shape == (1, 2, 64)


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "gemma2", "deepseek_v3", "qwen3"])
def test_the_cache_is_as_wide_as_the_shape_says(name: str, checkpoint: Checkpoint) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    architecture = next(a for a in ARCHITECTURES if a.model_type == name)
    folder, _ = checkpoint(architecture)
    shape = inspect(folder).shape
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cache = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    elements = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert elements == 2 * shape.kv_heads * shape.head_dim * 3 * shape.layers


@pytest.mark.parametrize("family", sorted(FAMILY_DEFAULTS))
def test_the_defaults_of_a_family_are_those_of_transformers(family: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family).to_dict()
    expected = FAMILY_DEFAULTS[family]
    assert {key: config[key] for key in expected} == expected


def test_a_nested_config_may_leave_out_what_its_family_defaults_to(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(
        tiny_llama,
        architectures=["Gemma3ForConditionalGeneration"],
        model_type="gemma3",
        text_config={"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
        vision_config={"hidden_size": 8},
    )
    shape = inspect(tiny_llama).shape
    assert shape is not None
    assert (shape.layers, shape.hidden_size) == (34, 2560)
    assert (shape.attention_heads, shape.kv_heads, shape.head_dim) == (8, 4, 256)
    assert shape.context_length == 131_072


def test_layers_beyond_those_of_the_config_are_no_decoder_layers(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    whole = inspect(tiny_llama).weights
    edit_config(tiny_llama, num_hidden_layers=1)
    part = inspect(tiny_llama).weights
    assert whole is not None
    assert part is not None
    assert part.layer_bytes == whole.layer_bytes[:1]
    assert part.total_bytes == whole.total_bytes


def test_a_folder_that_says_nothing_of_its_kind_is_refused(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, architectures=None, model_type=None)
    model = inspect(tiny_llama)
    assert not model.is_supported()
    assert "A model without a type" in model.resolution_message


def test_an_architecture_of_no_text_is_refused_by_name(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint(ARCHITECTURES[0])[0], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "LlamaForSequenceClassification" in inspect(folder).resolution_message
