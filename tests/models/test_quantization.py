from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.quantization import (
    Quantization,
    kept_as_stored,
    logical_elements,
    read_quantization,
)
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.tensors import TensorHeader
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from tests.weights.quantized_models import QUANTIZED, expanded, quantize
from tests.weights.streamed_models import save_lively

EditConfig = Callable[..., None]

# What published checkpoints of each method say, how it is understood, and whether it runs.
TABLE: tuple[tuple[str, dict[str, object], Quantization, bool], ...] = (
    (
        "fp8",
        {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
        Quantization("fp8"),
        True,
    ),
    (
        "mxfp4",
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        Quantization("mxfp4"),
        True,
    ),
    (
        "awq",
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
        Quantization("awq", 4),
        False,
    ),
    ("old awq", {"quant_method": "awq", "w_bit": 4}, Quantization("awq", 4), False),
    (
        "gptq",
        {"quant_method": "gptq", "bits": 8, "desc_act": True},
        Quantization("gptq", 8),
        False,
    ),
    (
        "bitsandbytes 4-bit",
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        Quantization("bitsandbytes", 4),
        False,
    ),
    (
        "bitsandbytes 8-bit",
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False},
        Quantization("bitsandbytes", 8),
        False,
    ),
    (
        "bitsandbytes before it had a name",
        {"load_in_8bit": True, "llm_int8_threshold": 6.0},
        Quantization("bitsandbytes", 8),
        False,
    ),
    (
        "compressed-tensors",
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
        },
        Quantization("compressed-tensors", 4),
        False,
    ),
    ("fbgemm", {"quant_method": "fbgemm_fp8"}, Quantization("fbgemm_fp8"), False),
    ("unknown", {"quant_method": "zipped"}, Quantization("zipped"), False),
    ("unnamed", {"bits": 3}, Quantization("unnamed", 3), False),
    ("no text", {"quant_method": 7}, Quantization("unnamed"), False),
)
IDS = [row[0] for row in TABLE]


def inspect(path: Path) -> ResolvedModel:
    return inspect_materialized_model(str(path), path, "local-path")


@pytest.mark.parametrize(("name", "stated", "quantization", "runs"), TABLE, ids=IDS)
def test_each_method_is_recognised_and_truthfully_run_or_refused(
    name: str,
    stated: dict[str, object],
    quantization: Quantization,
    runs: bool,
    tiny_llama: Path,
    edit_config: EditConfig,
) -> None:
    assert read_quantization({"quantization_config": stated}) == quantization
    edit_config(tiny_llama, quantization_config=stated)
    model = inspect(tiny_llama)
    assert model.is_supported() is runs
    if runs:
        assert any(f"Stored in {name}" in detail for detail in model.capabilities.details)
        return
    reason = model.capabilities.reason_for("support_level")
    assert reason is not None
    assert f"quantized with {quantization.title}" in reason
    assert "Use the version of the model that is not quantized." in reason


@pytest.mark.parametrize("stated", [None, {}, [], "gptq", 4])
def test_what_announces_nothing_is_plain(stated: object) -> None:
    assert read_quantization({"quantization_config": stated}) is None


def test_a_nested_text_config_may_say_it() -> None:
    config = {"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}
    assert read_quantization(config) == Quantization("gptq", 4)


@pytest.mark.parametrize(
    ("method", "name", "dtype", "elements", "logical"),
    [
        (Quantization("awq", 4), "l.q_proj.qweight", "int32", 100, 800),
        (Quantization("gptq", 3), "l.q_proj.qweight", "int32", 96, 1024),
        (Quantization("gptq", 4), "l.q_proj.qzeros", "int32", 100, 0),
        (Quantization("gptq", 4), "l.q_proj.scales", "float16", 100, 0),
        (Quantization("gptq", 4), "l.q_proj.g_idx", "int32", 100, 0),
        (Quantization("gptq", 4), "lm_head.weight", "float16", 100, 100),
        (Quantization("bitsandbytes", 4), "l.q_proj.weight", "uint8", 100, 200),
        (Quantization("bitsandbytes", 4), "l.q_proj.weight.absmax", "uint8", 100, 0),
        (
            Quantization("bitsandbytes", 4),
            "l.q_proj.weight.quant_state.bitsandbytes__nf4",
            "uint8",
            100,
            0,
        ),
        (Quantization("bitsandbytes", 8), "l.q_proj.weight", "int8", 100, 100),
        (Quantization("bitsandbytes", 8), "l.q_proj.SCB", "float32", 100, 0),
        (Quantization("compressed-tensors", 4), "l.q_proj.weight_packed", "int32", 100, 800),
        (Quantization("compressed-tensors", 4), "l.q_proj.weight_scale", "bfloat16", 100, 0),
        (Quantization("fp8"), "l.q_proj.weight", "float8_e4m3fn", 100, 100),
        (Quantization("fp8"), "l.q_proj.weight_scale_inv", "float32", 100, 0),
        (Quantization("mxfp4"), "l.experts.down_proj_blocks", "uint8", 100, 200),
        (Quantization("mxfp4"), "l.experts.down_proj_scales", "uint8", 100, 0),
        (Quantization("fp8"), "l.experts.0.w1.weight", "int8", 100, 200),
        (None, "l.q_proj.scales", "float32", 100, 100),
    ],
)
def test_a_stored_tensor_counts_the_weights_it_stands_for(
    method: Quantization | None, name: str, dtype: str, elements: int, logical: int
) -> None:
    header = TensorHeader(name, dtype, (elements,), elements, elements)
    assert logical_elements(header, method) == logical


def named(name: str, dtype: str, *shape: int) -> TensorHeader:
    return TensorHeader(name, dtype, shape, 1, 1)


WEIGHT = named("l.q_proj.weight", "float8_e4m3fn", 256, 384)
BLOCKS = named("l.experts.down_proj_blocks", "uint8", 4, 64, 3, 16)


@pytest.mark.parametrize(
    ("method", "weight", "scales", "kept"),
    [
        ("fp8", WEIGHT, named("l.q_proj.weight_scale_inv", "float32", 2, 3), True),
        ("fp8", WEIGHT, named("l.q_proj.weight_scale_inv", "bfloat16", 1, 1), True),
        ("fp8", WEIGHT, named("l.q_proj.weight_scale_inv", "float32"), True),
        ("fp8", WEIGHT, named("l.q_proj.scale", "float32", 2, 3), True),
        ("fp8", WEIGHT, named("l.q_proj.qscale_weight", "float32"), True),
        ("fp8", WEIGHT, named("l.q_proj.weight_scale_inv", "float32", 3, 3), False),
        ("fp8", WEIGHT, named("l.q_proj.weight_scale_inv", "float8_e8m0fnu", 2, 3), False),
        ("fp8", WEIGHT, named("l.k_proj.weight_scale_inv", "float32", 2, 3), False),
        ("fp8", replace(WEIGHT, dtype="int8"), named("l.q_proj.scale", "float32", 2, 3), False),
        ("mxfp4", BLOCKS, named("l.experts.down_proj_scales", "uint8", 4, 64, 3), True),
        ("mxfp4", BLOCKS, named("l.experts.down_proj_scales", "uint8", 4, 64, 2), False),
        ("mxfp4", BLOCKS, named("l.experts.up_proj_scales", "uint8", 4, 64, 3), False),
        ("gptq", WEIGHT, named("l.q_proj.weight_scale_inv", "float32", 2, 3), False),
    ],
)
def test_a_weight_and_its_scales_move_as_they_are_stored_or_neither_does(
    method: str, weight: TensorHeader, scales: TensorHeader, kept: bool
) -> None:
    norm = named("l.norm.weight", "bfloat16", 256)
    wanted = {weight.name, scales.name} if kept else set()
    assert kept_as_stored((norm, weight, scales), Quantization(method)) == wanted
    assert kept_as_stored((norm, weight, scales), None) == frozenset()


def test_an_fp8_checkpoint_is_counted_right_and_really_loads(
    tiny_llama: Path, tmp_path: Path, edit_config: EditConfig
) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    plain = inspect(tiny_llama).capabilities.parameters
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "fp8"))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            tensors[name] = tensor
            continue
        tensors[name] = tensor.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stated = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    edit_config(folder, quantization_config=stated)
    model = inspect(folder)
    assert model.is_supported()
    assert model.capabilities.dtype == "float8_e4m3fn"
    assert model.capabilities.parameters == plain
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert loaded.model.layers[0].mlp.up_proj.weight.dtype in (torch.bfloat16, torch.float8_e4m3fn)


def test_a_gptq_checkpoint_says_its_real_number_of_parameters(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    stored = {
        "model.embed_tokens.weight": ("F16", [128, 64], 2),
        "model.layers.0.self_attn.q_proj.qweight": ("I32", [8, 64], 4),
        "model.layers.0.self_attn.q_proj.qzeros": ("I32", [1, 8], 4),
        "model.layers.0.self_attn.q_proj.scales": ("F16", [1, 64], 2),
        "model.layers.0.self_attn.q_proj.g_idx": ("I32", [64], 4),
    }
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, shape, itemsize) in stored.items():
        end = position + itemsize
        for size in shape[:]:
            end = position + (end - position) * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    path = tiny_llama / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(position))
    edit_config(tiny_llama, quantization_config={"quant_method": "gptq", "bits": 4})
    profile = inspect(tiny_llama).capabilities
    assert profile.parameters == 128 * 64 + 64 * 64
    assert profile.bytes_on_disk == position


@pytest.mark.parametrize("layers_in_ram", [None, 0, 1], ids=["in RAM", "on disk", "mixed"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_an_expandable_checkpoint_runs_natively_with_the_tokens_of_transformers(
    name: str, layers_in_ram: int | None, saved_llama: Path, tmp_path: Path
) -> None:
    import torch

    from ollm_widgets.runtime.loader import RuntimeLoader

    architecture, method = QUANTIZED[name]
    folder = save_lively(architecture, tmp_path / "model")
    quantize(folder, method)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(saved_llama / file, folder)
    ids = torch.tensor([[5, 9, 33, 17, 8, 41]])
    wanted = expanded(folder, method, torch.bfloat16).generate(  # type: ignore[operator]
        ids, max_new_tokens=6, do_sample=False
    )
    config = RuntimeConfig(
        f"path:{folder}", device="cpu", dtype="bfloat16", offload_cpu_layers=layers_in_ram
    )
    with RuntimeLoader().load(config) as runtime:
        assert runtime.plan.backend_id == "optimized-native"
        assert runtime.plan.placement.disk_layers == 5 - (
            5 if layers_in_ram is None else layers_in_ram
        )
        assert f"Its {method} weights are expanded to bfloat16 where they run." in (
            runtime.plan.details
        )
        assert torch.equal(runtime.generate(ids, GenerationConfig(6)), wanted)
