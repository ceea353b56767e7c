"""A model built without weights is the model that transformers builds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.model.skeleton import build_skeleton
from tests.models.architectures import Architecture, build
from tests.weights.streamed_models import CPU, DECODERS, named, whole

FolderOf = Callable[[Architecture], Path]
LLAMA = named("llama")


def _llama(name: str, **rope: Any) -> Architecture:
    rope = {"rope_theta": 10_000.0, **rope}
    settings = {**LLAMA.settings, "rope_parameters": rope}
    return replace(LLAMA, model_type="llama", settings=settings, modalities=(name,))


def _sliding(model_type: str) -> Architecture:
    """Six layers, so that a pattern of one full layer in six has one."""
    base = named(model_type)
    return replace(base, settings={**base.settings, "num_hidden_layers": 6}, layers=6)


ROTARY = {
    "llama3": _llama(
        "llama3",
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    ),
    "linear": _llama("linear", rope_type="linear", factor=4.0),
    "dynamic": _llama("dynamic", rope_type="dynamic", factor=4.0),
    "yarn": _llama("yarn", rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
    "one for each layer type": _sliding("gemma3_text"),
}
# What says where or how a model was loaded, not what it is.
_ORIGIN = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "name_or_path",
        "_is_hf_initialized",
        "_use_kernels",
        "_weight_conversions",
    }
)
PLAIN = (bool, int, float, str, type(None), torch.dtype, tuple, list, dict)


def assert_same_buffers(ours: nn.Module, theirs: nn.Module) -> None:
    wanted = dict(theirs.named_buffers())
    got = dict(ours.named_buffers())
    assert got.keys() == wanted.keys()
    saved = theirs.state_dict().keys()
    for name, buffer in wanted.items():
        if name in saved:
            assert got[name].is_meta
            continue
        assert got[name].dtype == buffer.dtype, name
        assert torch.equal(got[name], buffer), name


def assert_same_attributes(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = zip(ours.named_modules(), theirs.modules(), strict=True)
    for (name, got), wanted in pairs:
        assert type(got) is type(wanted)
        for key, value in vars(wanted).items():
            if key in _ORIGIN:
                continue
            found = vars(got).get(key, "missing")
            if isinstance(value, torch.Tensor):
                assert torch.equal(found, value), f"{name}.{key}"
            elif isinstance(value, PLAIN) and not _holds_modules(value):
                assert found == value, f"{name}.{key}: {found!r} != {value!r}"


def _holds_modules(value: object) -> bool:
    """What nn.Module keeps of tensors, modules and hooks."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not isinstance(one, PLAIN) for one in held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_computed_buffers_and_attributes_are_those_of_from_pretrained(
    architecture: Architecture, dtype: torch.dtype, folder_of: FolderOf
) -> None:
    folder = folder_of(architecture)
    theirs = whole(architecture, folder, dtype)
    ours = build_skeleton(folder, dtype, CPU, architecture.kind)
    assert_same_buffers(ours, theirs)
    assert_same_attributes(ours, theirs)
    assert all(parameter.is_meta for parameter in ours.parameters())
    dtypes = {name: parameter.dtype for name, parameter in theirs.named_parameters()}
    assert {name: parameter.dtype for name, parameter in ours.named_parameters()} == dtypes


@pytest.mark.parametrize("architecture", ROTARY.values(), ids=ROTARY)
def test_rotary_frequencies_of_every_scaling_are_those_of_from_pretrained(
    architecture: Architecture, tmp_path: Path
) -> None:
    build(architecture).save_pretrained(tmp_path)
    theirs = whole(architecture, tmp_path, torch.float32)
    ours = build_skeleton(tmp_path, torch.float32, CPU, architecture.kind)
    assert [name for name, _ in ours.named_buffers() if "inv_freq" in name]
    assert_same_buffers(ours, theirs)
    assert_same_attributes(ours, theirs)


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_config_and_generation_config_are_those_of_from_pretrained(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    folder = folder_of(architecture)
    theirs = whole(architecture, folder, torch.bfloat16)
    ours = build_skeleton(folder, torch.bfloat16, CPU, architecture.kind)
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    own, other = ours.config.to_dict(), theirs.config.to_dict()
    assert {k: v for k, v in own.items() if k not in _ORIGIN} == {
        k: v for k, v in other.items() if k not in _ORIGIN
    }
    assert ours.config._attn_implementation == theirs.config._attn_implementation
    assert ours.dtype == theirs.dtype
    assert not ours.training


def _without(path: Path) -> None:
    path.unlink()


def _garbled(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize("spoil", [_without, _garbled])
def test_without_a_generation_config_that_can_be_read_the_config_says_how_to_generate(
    spoil: Callable[[Path], None], folder_of: FolderOf, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of(LLAMA), tmp_path / "bare"))
    spoil(folder / "generation_config.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "repetition_penalty": 1.5}))
    theirs = whole(LLAMA, folder, torch.float32)
    ours = build_skeleton(folder, torch.float32, CPU, LLAMA.kind)
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert ours.generation_config.repetition_penalty == 1.5


def test_no_weight_is_read(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(LLAMA), tmp_path / "without"))
    (folder / "model.safetensors").unlink()
    assert build_skeleton(folder, torch.float32, CPU, LLAMA.kind).config.num_hidden_layers == 5


def _unknown(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "nothing-known"}))


def _encoder_decoder(folder: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))


def _damaged(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _impossible(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 0}))


@pytest.mark.parametrize("damage", [_unknown, _encoder_decoder, _damaged, _impossible])
def test_a_folder_that_transformers_cannot_build_is_refused_by_name(
    damage: Callable[[Path], None], folder_of: FolderOf, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of(LLAMA), tmp_path / "the-model"))
    damage(folder)
    with pytest.raises(
        SpecializationLoadError, match="cannot build the model in the-model"
    ) as raised:
        build_skeleton(folder, torch.float32, CPU, LLAMA.kind)
    assert raised.value.__cause__ is not None
