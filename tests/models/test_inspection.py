from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.errors import MalformedModelError, UnsafeModelError, UnsupportedModelError
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape

EditConfig = Callable[..., None]


def inspect(path: Path) -> ResolvedModel:
    return inspect_materialized_model(str(path), path, "local-path")


def test_a_saved_causal_model_is_optimized_with_its_facts(tiny_llama: Path) -> None:
    model = inspect(tiny_llama)
    profile = model.capabilities
    assert profile.support_level == "optimized"
    assert profile.supports_specialization
    assert model.architecture == "LlamaForCausalLM"
    assert model.model_type == "llama"
    assert model.generic_model_kind == "causal-lm"
    assert model.weight_format == "safetensors"
    assert model.model_path == tiny_llama
    assert model.problem is None
    assert profile.layers == 2
    assert profile.context_length == 256
    assert profile.dtype == "bfloat16"
    assert profile.has_chat_template is True
    assert profile.modalities == ("text",)
    assert model.weights is not None
    assert profile.parameters == model.weights.parameters
    assert profile.bytes_on_disk == model.weights.total_bytes


def test_the_shape_is_the_configs(tiny_llama: Path) -> None:
    assert inspect(tiny_llama).shape == ModelShape(
        layers=2,
        hidden_size=64,
        intermediate_size=96,
        attention_heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=128,
        context_length=256,
        tied_embeddings=False,
    )


def test_a_checkpoint_without_output_projection_is_tied(
    tiny_llama: Path, write_safetensors: Callable[..., Path]
) -> None:
    write_safetensors(
        tiny_llama / "model.safetensors",
        {"model.embed_tokens.weight": [128, 64], "model.layers.0.mlp.up_proj.weight": [96, 64]},
    )
    shape = inspect(tiny_llama).shape
    assert shape is not None
    assert shape.tied_embeddings


def test_sliding_layers_are_read_from_the_config(tiny_llama: Path, edit_config: EditConfig) -> None:
    types = ["sliding_attention", "full_attention"]
    edit_config(tiny_llama, sliding_window=32, layer_types=types)
    shape = inspect(tiny_llama).shape
    assert shape is not None
    assert shape.sliding_window == 32
    assert shape.layer_types == tuple(types)


@pytest.mark.parametrize(
    ("changes", "types"),
    [
        ({"model_type": "gemma2", "sliding_window": 8}, ("sliding_attention", "full_attention")),
        ({"full_attention_interval": 2}, ("linear_attention", "full_attention")),
        ({"sliding_window": 8}, None),
    ],
)
def test_layer_types_follow_from_a_period_where_the_config_lists_none(
    tiny_llama: Path,
    edit_config: EditConfig,
    changes: dict[str, object],
    types: tuple[str, ...] | None,
) -> None:
    edit_config(tiny_llama, **changes)
    shape = inspect(tiny_llama).shape
    assert shape is not None
    assert shape.layer_types == types


def test_a_config_may_hold_infinity_and_very_large_integers(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, time_step_limit=[0.0, float("inf")], model_max_length=10**30)
    assert inspect(tiny_llama).is_supported()


def test_experts_are_counted(tiny_llama: Path, edit_config: EditConfig) -> None:
    edit_config(tiny_llama, num_local_experts=8, num_experts_per_tok=2)
    profile = inspect(tiny_llama).capabilities
    assert (profile.experts, profile.active_experts) == (8, 2)
    assert profile.is_mixture_of_experts()


@pytest.mark.parametrize(
    ("changes", "kind", "modalities"),
    [
        (
            {"architectures": ["VoxtralForConditionalGeneration"], "audio_config": {"x": 1}},
            "audio-text-to-text",
            ("text", "audio"),
        ),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "seq2seq-lm",
            ("text",),
        ),
        ({"model_type": "whisper"}, "speech-seq2seq", ("text", "audio")),
    ],
)
def test_other_kinds_are_recognised_and_refused_with_the_reason(
    tiny_llama: Path,
    edit_config: EditConfig,
    changes: dict[str, object],
    kind: str,
    modalities: tuple[str, ...],
) -> None:
    edit_config(tiny_llama, **changes)
    model = inspect(tiny_llama)
    assert model.generic_model_kind == kind
    assert model.capabilities.modalities == modalities
    assert model.capabilities.support_level == "unsupported"
    assert f"{kind} is not built in this version" in model.resolution_message
    assert model.weights is not None


def test_a_model_that_generates_nothing_is_refused(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, architectures=["BertForMaskedLM"], model_type="bert")
    model = inspect(tiny_llama)
    assert model.generic_model_kind is None
    assert "BertForMaskedLM is not known to generate text" in model.resolution_message


def test_a_config_without_architectures_is_judged_by_its_type(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, architectures=None)
    assert inspect(tiny_llama).generic_model_kind == "causal-lm"


def test_pickle_weights_are_refused_as_unsafe(tiny_llama: Path) -> None:
    (tiny_llama / "model.safetensors").rename(tiny_llama / "pytorch_model.bin")
    model = inspect(tiny_llama)
    assert model.capabilities.support_level == "unsupported"
    assert "pytorch_model.bin" in model.resolution_message
    assert isinstance(model.refusal(), UnsafeModelError)


def test_pickle_files_beside_safetensors_are_ignored_and_named(tiny_llama: Path) -> None:
    (tiny_llama / "pytorch_model.bin").write_bytes(b"x")
    profile = inspect(tiny_llama).capabilities
    assert profile.support_level == "optimized"
    assert any("pytorch_model.bin" in detail for detail in profile.details)


def test_remote_code_is_refused_as_unsafe(tiny_llama: Path, edit_config: EditConfig) -> None:
    edit_config(tiny_llama, auto_map={"AutoModelForCausalLM": "modeling.Own"})
    model = inspect(tiny_llama)
    assert "auto_map" in model.resolution_message
    assert isinstance(model.refusal(), UnsafeModelError)


def test_remote_code_in_the_tokenizer_is_refused_too(tiny_llama: Path) -> None:
    path = tiny_llama / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"A": "b.C"}}))
    assert isinstance(inspect(tiny_llama).refusal(), UnsafeModelError)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantized_checkpoints_without_a_kernel_here_are_refused(
    tiny_llama: Path, edit_config: EditConfig, method: str
) -> None:
    edit_config(tiny_llama, quantization_config={"quant_method": method})
    model = inspect(tiny_llama)
    assert model.capabilities.support_level == "unsupported"
    assert f"quantized with {method}" in model.resolution_message
    assert f"Quantized with {method}." in model.capabilities.details


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_quantized_checkpoints_that_transformers_expands_run(
    tiny_llama: Path, edit_config: EditConfig, method: str
) -> None:
    edit_config(tiny_llama, quantization_config={"quant_method": method})
    model = inspect(tiny_llama)
    profile = model.capabilities
    assert model.quantization == Quantization(method)
    assert profile.support_level == "optimized"
    assert any(method in detail for detail in profile.details)


def test_an_adapter_folder_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "PEFT adapter" in inspect(tmp_path).resolution_message


def test_a_folder_without_config_is_not_a_model_folder(tmp_path: Path) -> None:
    message = inspect(tmp_path).resolution_message
    assert "has no config.json: not a model folder" in message


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "no such folder" in inspect(tmp_path / "nothing").resolution_message


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"a": ' + "[" * 50_000])
def test_a_damaged_config_is_malformed(tiny_llama: Path, content: str) -> None:
    (tiny_llama / "config.json").write_text(content)
    model = inspect(tiny_llama)
    assert "config.json" in model.resolution_message
    assert isinstance(model.refusal(), MalformedModelError)


def test_an_enormous_config_is_unsafe(tiny_llama: Path) -> None:
    (tiny_llama / "config.json").write_bytes(b" " * 10_000_001)
    assert isinstance(inspect(tiny_llama).refusal(), UnsafeModelError)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_hidden_layers": 10**12}, UnsafeModelError),
        ({"num_hidden_layers": 20_000}, UnsafeModelError),
        ({"hidden_size": -1}, MalformedModelError),
    ],
)
def test_absurd_dimensions_are_refused(
    tiny_llama: Path,
    edit_config: EditConfig,
    changes: dict[str, object],
    error: type[UnsupportedModelError],
) -> None:
    edit_config(tiny_llama, **changes)
    assert isinstance(inspect(tiny_llama).refusal(), error)


def test_truncated_weights_keep_the_configs_facts(tiny_llama: Path) -> None:
    path = tiny_llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    model = inspect(tiny_llama)
    assert "10 of" in model.resolution_message
    assert isinstance(model.refusal(), MalformedModelError)
    assert model.architecture == "LlamaForCausalLM"
    assert model.shape is not None
    assert model.weights is None


def test_a_missing_shard_is_a_gap_and_no_refusal(sharded_llama: Path) -> None:
    shard = next(iter(sharded_llama.glob("model-*.safetensors")))
    shard.unlink()
    model = inspect(sharded_llama)
    assert model.is_supported()
    assert not model.capabilities.supports_local_materialization
    assert f"{shard} is missing" in model.resolution_message


def test_a_missing_chat_template_has_its_reason(tiny_llama: Path) -> None:
    (tiny_llama / "chat_template.jinja").unlink()
    profile = inspect(tiny_llama).capabilities
    assert profile.has_chat_template is False
    assert profile.reason_for("has_chat_template")


def test_a_safetensors_file_leads_to_its_folder(tiny_llama: Path, tmp_path: Path) -> None:
    assert inspect(tiny_llama / "model.safetensors").model_path == tiny_llama
    alone = Path(shutil.copy(tiny_llama / "model.safetensors", tmp_path))
    assert "no config.json" in inspect(alone).resolution_message


def test_the_embedded_gguf_tells_its_shape_and_weights(smollm_gguf: Path) -> None:
    model = inspect(smollm_gguf)
    assert model.capabilities.support_level == "optimized"
    assert model.quantization is None
    assert model.weight_format == "gguf"
    assert model.architecture == "LlamaForCausalLM"
    assert model.capabilities.parameters == 134_515_008
    assert model.capabilities.dtype == "Q4_1"
    assert model.capabilities.has_chat_template
    assert model.capabilities.licence == "apache-2.0"
    assert model.shape == ModelShape(30, 576, 1536, 9, 3, 64, 49_152, 8_192, None, None, True)
    assert model.weights is not None
    assert model.weights.layer_parameters == (3_540_096,) * 30


def test_a_folder_with_one_gguf_file_is_that_file(tiny_gguf: Path) -> None:
    assert inspect(tiny_gguf.parent).model_path == tiny_gguf


def test_a_folder_with_several_gguf_files_asks_for_one(tiny_gguf: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny_gguf, tmp_path / name)
    message = inspect(tmp_path).resolution_message
    assert "2 GGUF files" in message
    assert "Name one of them" in message


def test_every_no_has_a_reason(tiny_llama: Path) -> None:
    profile = inspect(tiny_llama).capabilities
    assert not profile.supports_disk_cache
    assert profile.reason_for("supports_disk_cache")
    assert profile.supports_specialization
    assert profile.reason_for("supports_specialization") is None


def test_a_model_that_only_transformers_runs_is_generic_and_says_why(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, num_hidden_layers=3)
    profile = inspect(tiny_llama).capabilities
    assert profile.support_level == "generic"
    assert not profile.supports_specialization
    reason = profile.reason_for("supports_specialization")
    assert reason is not None
    assert "2 decoder layers, and the config announces 3" in reason


def test_what_does_not_run_has_no_specialization_either(
    tiny_llama: Path, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, quantization_config={"quant_method": "awq"})
    profile = inspect(tiny_llama).capabilities
    assert not profile.supports_specialization
    assert profile.reason_for("supports_specialization") == "No backend runs it."


def test_a_model_draws_itself_in_every_form(tiny_llama: Path) -> None:
    model = inspect(tiny_llama)
    for text in (model.to_html(), model.to_markdown(), model.to_text()):
        assert "LlamaForCausalLM" in text
    assert "256 tokens" in model.capabilities.to_text()
