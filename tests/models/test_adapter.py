from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets import RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.adapter import inspect_adapter
from ollm_widgets.models.inspection import inspect_materialized_model

WriteSafetensors = Callable[..., Path]


@pytest.fixture
def adapter(tmp_path: Path, write_safetensors: WriteSafetensors) -> Path:
    """A LoRA of rank 4 on the small Llama, as PEFT's save_pretrained writes it."""
    folder = tmp_path / "lora"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/tiny-llama",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["v_proj", "q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write(folder, write_safetensors)
    return folder


def write(
    folder: Path, write_safetensors: WriteSafetensors, hidden: int = 64, layers: int = 2
) -> None:
    tensors: dict[str, list[int]] = {}
    for layer in range(layers):
        prefix = f"base_model.model.model.layers.{layer}.self_attn"
        tensors[f"{prefix}.q_proj.lora_A.weight"] = [4, hidden]
        tensors[f"{prefix}.q_proj.lora_B.weight"] = [hidden, 4]
        tensors[f"{prefix}.v_proj.lora_A.weight"] = [4, hidden]
        tensors[f"{prefix}.v_proj.lora_B.weight"] = [32, 4]
    write_safetensors(folder / "adapter_model.safetensors", tensors)


def test_an_adapter_says_what_it_is(adapter: Path) -> None:
    profile = inspect_adapter(adapter)
    assert (profile.method, profile.rank, profile.alpha) == ("lora", 4, 8)
    assert profile.base_model == "org/tiny-llama"
    assert profile.target_modules == ("q_proj", "v_proj")
    assert (profile.layers, profile.hidden_size) == (2, 64)
    assert profile.parameters == 2 * (4 * 64 * 3 + 32 * 4)
    assert profile.bytes_on_disk == 4 * profile.parameters
    assert profile.dtype == "float32"
    assert profile.summary().startswith("lora: lora of rank 4 for org/tiny-llama on q_proj, v_proj")


def test_it_fits_the_model_that_it_was_made_for(adapter: Path, tiny_llama: Path) -> None:
    base = inspect_materialized_model(str(tiny_llama), tiny_llama, "local-path")
    assert inspect_adapter(adapter).mismatch_with(base) is None


@pytest.mark.parametrize(
    ("hidden", "layers", "reason"),
    [(128, 2, "width 128, and tiny-llama has 64"), (64, 3, "layer 3, and tiny-llama has 2")],
)
def test_another_models_adapter_does_not_fit_and_the_reason_is_said(
    adapter: Path,
    tiny_llama: Path,
    write_safetensors: WriteSafetensors,
    hidden: int,
    layers: int,
    reason: str,
) -> None:
    write(adapter, write_safetensors, hidden, layers)
    base = inspect_materialized_model(str(tiny_llama), tiny_llama, "local-path")
    said = inspect_adapter(adapter).mismatch_with(base)
    assert said is not None
    assert reason in said
    assert "org/tiny-llama" in said


def test_pickle_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsafeModelError, match=r"adapter_model\.bin"):
        inspect_adapter(adapter)


def test_classes_of_its_own_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_mapping": {"a": "b"}}))
    with pytest.raises(UnsafeModelError, match="auto_mapping"):
        inspect_adapter(adapter)


def test_a_link_out_of_the_folder_is_refused(adapter: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    outside = tmp_path / "outside.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(UnsafeModelError, match="link"):
        inspect_adapter(adapter)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"r": -1}'])
def test_a_damaged_config_is_refused(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(MalformedModelError):
        inspect_adapter(adapter)


def test_a_truncated_file_is_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(MalformedModelError, match="3 of"):
        inspect_adapter(adapter)


def test_what_is_no_adapter_is_refused(tiny_llama: Path, tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not a PEFT adapter"):
        inspect_adapter(tiny_llama)
    with pytest.raises(UnsupportedModelError, match="no such folder"):
        inspect_adapter(tmp_path / "nothing")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no adapter_model\.safetensors"):
        inspect_adapter(adapter)


def test_a_plan_with_an_adapter_says_what_the_adapter_is_and_what_to_do(
    adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    loader = RuntimeLoader()
    planned = loader.plan(RuntimeConfig(tiny_llama, adapter_dir=adapter))
    assert not planned.is_executable()
    assert "lora: " in planned.reason
    assert "Merge the adapter" in planned.reason
    missing = loader.plan(RuntimeConfig(tiny_llama, adapter_dir=tmp_path / "nothing"))
    assert "nothing" in missing.reason
