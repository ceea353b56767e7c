"""Tiny checkpoints quantized by the methods that are expanded when they are loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tests.models.architectures import Architecture
from tests.weights.streamed_models import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 16
SEED = 3


def sized(model_type: str, **settings: object) -> Architecture:
    """One of the architectures, of a size that its blocks divide."""
    architecture = named(model_type)
    return replace(architecture, settings={**architecture.settings, **settings})


FP8_LLAMA = sized("llama")
FP8_MIXTURE = sized("qwen3_moe", moe_intermediate_size=2 * BLOCK)
MXFP4_MIXTURE = sized("gpt_oss", intermediate_size=64)
QUANTIZED: dict[str, tuple[Architecture, str]] = {
    "fp8 llama": (FP8_LLAMA, "fp8"),
    "fp8 qwen3_moe": (FP8_MIXTURE, "fp8"),
    "mxfp4 gpt_oss": (MXFP4_MIXTURE, "mxfp4"),
}


def quantize(folder: Path, method: str) -> None:
    """Turn the projections of a saved model into quantized ones."""
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        made = (_in_fp8 if method == "fp8" else _in_mxfp4)(name, tensor, generator)
        tensors.update(made)
    save_file(tensors, path, metadata={"format": "pt"})
    stated: dict[str, Any] = {"quant_method": method, "modules_to_not_convert": ["lm_head"]}
    if method == "fp8":
        stated |= {"activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))


def _in_fp8(name: str, tensor: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    if not name.endswith("_proj.weight"):
        return {name: tensor}
    blocks = [-(-size // BLOCK) for size in tensor.shape]
    return {
        name: (tensor.float() * 10).to(torch.float8_e4m3fn),
        f"{name}_scale_inv": 0.05 + 0.1 * torch.rand(blocks, generator=generator),
    }


def _in_mxfp4(
    name: str, tensor: torch.Tensor, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    if not name.endswith("_proj") or ".experts." not in name:
        return {name: tensor}
    experts, inner, outer = tensor.shape
    groups = (experts, outer, inner // 32)
    blocks = torch.randint(0, 256, (*groups, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(120, 126, groups, generator=generator, dtype=torch.uint8)
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}


def expanded(folder: Path, method: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model as transformers loads it when it is told to expand the weights."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

    config = FineGrainedFP8Config if method == "fp8" else Mxfp4Config
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=config(dequantize=True)
    )
    return model.eval()
