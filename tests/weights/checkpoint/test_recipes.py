from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ollm_widgets.errors import MalformedModelError, SpecializationLoadError
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.moves import TracedTensor, runs_of
from ollm_widgets.weights.checkpoint.recipes import recipes_for
from tests.models.architectures import (
    ARCHITECTURES,
    EXPERTS,
    GROUPED,
    HEADED,
    TOWER,
    Architecture,
)
from tests.weights.checkpoints import auto_class, model_on_meta, read_all, save_tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MORE = (
    Architecture("cohere", GROUPED, "CohereForCausalLM"),
    Architecture("starcoder2", GROUPED, "Starcoder2ForCausalLM"),
    Architecture("glm4", {**HEADED, "pad_token_id": 0}, "Glm4ForCausalLM"),
    Architecture("phimoe", {**HEADED, "num_local_experts": 4}, "PhimoeForCausalLM"),
    Architecture("olmoe", {**GROUPED, **EXPERTS}, "OlmoeForCausalLM"),
    Architecture(
        "jamba",
        {**GROUPED, "num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2}
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
        | {"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        "JambaForCausalLM",
    ),
    Architecture("hrm_text", HEADED, "HrmTextForCausalLM"),
    Architecture(
        "qwen3_vl_moe",
        {
            "text_config": {
                **HEADED,
                **EXPERTS,
                "moe_intermediate_size": 24,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
            "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 4, "out_hidden_size": 32}
            | {"intermediate_size": 48, "deepstack_visual_indexes": [0]},
        },
        "Qwen3VLMoeForConditionalGeneration",
        kind="image-text-to-text",
    ),
    Architecture(
        "ernie4_5_vl_moe",
        {
            "text_config": {**GROUPED, "moe_num_experts": 4, "moe_k": 2}
            | {"moe_intermediate_size": [16, 8], "mlp_layer_types": ["dense", "sparse"]}
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "vision_config": {**TOWER, "depth": 1, "num_heads": 4},
        },
        "Ernie4_5_VLMoeForConditionalGeneration",
        kind="image-text-to-text",
    ),
)
CHECKED = [
    architecture
    for architecture in (*ARCHITECTURES, *MORE)
    if architecture.kind in ("causal-lm", "image-text-to-text")
]


@pytest.fixture(scope="module", params=CHECKED, ids=str)
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Architecture, Path]:
    architecture: Architecture = request.param
    return architecture, save_tiny(architecture, tmp_path_factory.mktemp("tiny"))


def rewrite(folder: Path, change: Any) -> None:
    """Save the one file of a checkpoint again, with other tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def require_as_loaded(folder: Path, kind: str, dtype: torch.dtype, *, direct: bool = False) -> None:
    """What the recipes read is bit by bit what transformers loads."""
    loaded = auto_class(kind).from_pretrained(folder, dtype=dtype)  # type: ignore[attr-defined]
    expected = loaded.state_dict()
    model, index = model_on_meta(folder, dtype, kind), CheckpointIndex.of(folder)
    recipes = recipes_for(model, index)
    views = read_all(recipes, index, direct=direct)
    tied = loaded.all_tied_weights_keys
    assert {tied.get(name, name) for name in expected} == set(views)
    for name, view in views.items():
        assert view.dtype == expected[name].dtype, name
        assert view.shape == expected[name].shape, name
        assert torch.equal(view, expected[name]), name


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
def test_every_tensor_is_what_transformers_loads(
    tiny: tuple[Architecture, Path], dtype: torch.dtype, direct: bool
) -> None:
    architecture, folder = tiny
    require_as_loaded(folder, architecture.kind, dtype, direct=direct)


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma3", "gpt2"])
def test_shards_make_no_difference(name: str, tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == name)
    folder = save_tiny(architecture, tmp_path, max_shard_size="20kB")
    assert len(CheckpointIndex.of(folder).identities) > 2
    require_as_loaded(folder, architecture.kind, torch.bfloat16)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt2", "falcon"])
def test_a_checkpoint_of_the_base_model_fits(name: str, tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == name)
    folder = save_tiny(architecture, tmp_path)
    prefix = model_on_meta(folder, torch.bfloat16).base_model_prefix

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.removeprefix(f"{prefix}.")] = tensors.pop(key)

    rewrite(folder, strip)
    require_as_loaded(folder, "causal-lm", torch.bfloat16)


@pytest.mark.parametrize(("name", "experts"), [("qwen3_moe", 4), ("mixtral", 4), ("jamba", 4)])
def test_experts_take_one_piece_each_and_projection(
    name: str, experts: int, tmp_path: Path
) -> None:
    architecture = next(each for each in CHECKED if each.model_type == name)
    folder = save_tiny(architecture, tmp_path)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(model_on_meta(folder, torch.bfloat16), index)
    gate_up = next(r for n, r in recipes.items() if n.endswith("experts.gate_up_proj"))
    down = next(r for n, r in recipes.items() if n.endswith("experts.down_proj"))
    assert len(gate_up.pieces) == 2 * experts
    assert len(down.pieces) == experts
    assert all(recipe.conversion is None for recipe in (gate_up, down))
    assert gate_up.stored_bytes == gate_up.size_bytes
    starts = [piece.target_offset_elements for piece in gate_up.pieces]
    assert starts == sorted(starts)


def test_fused_experts_that_lie_across_are_transposed(tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == "qwen3_vl_moe")
    folder = save_tiny(architecture, tmp_path)

    def transpose(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            if ".experts." in key:
                tensors[key] = tensor.transpose(1, 2).contiguous()

    rewrite(folder, transpose)
    model, index = (
        model_on_meta(folder, torch.bfloat16, architecture.kind),
        CheckpointIndex.of(folder),
    )
    recipes = recipes_for(model, index)
    converted = [name for name, recipe in recipes.items() if recipe.conversion is not None]
    assert len(converted) == 4
    assert all(".experts." in name for name in converted)
    for dtype in (torch.bfloat16, torch.float32):
        require_as_loaded(folder, architecture.kind, dtype)


def test_one_conversion_serves_all_tensors_that_come_of_it(tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == "ernie4_5_vl_moe")
    folder = save_tiny(architecture, tmp_path)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(model_on_meta(folder, torch.bfloat16, architecture.kind), index)
    made = [recipe for recipe in recipes.values() if recipe.conversion is not None]
    assert made
    for recipe in made:
        conversion = recipe.conversion
        assert conversion is not None
        assert recipe.pieces == ()
        sources = [load_file(span.path)[span.name] for span in conversion.spans]
        assert conversion.run(sources).shape == recipe.shape
        assert recipe.stored_bytes == sum(span.size_bytes for span in conversion.spans)


def quantize(folder: Path) -> None:
    """Make a checkpoint one of 8-bit floats with a scale a block of 16 by 16."""

    def to_blocks(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if "_proj.weight" in key]:
            rows, columns = tensors[key].shape
            tensors[key] = (tensors[key].float() * 10).to(torch.float8_e4m3fn)
            tensors[f"{key}_scale_inv"] = torch.rand(-(-rows // 16), -(-columns // 16))

    rewrite(folder, to_blocks)
    path = folder / "config.json"
    quantization = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    quantization["modules_to_not_convert"] = ["lm_head", "mlp.gate"]
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": quantization}))


def quantized_on_meta(folder: Path, *, dequantize: bool) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    config = AutoConfig.from_pretrained(folder)
    quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
    quantizer.quantization_config.dequantize = dequantize
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        quantizer.preprocess_model(model=model, dtype=torch.bfloat16, device_map={"": "cpu"})
    model.hf_quantizer = quantizer
    return model


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_a_quantized_checkpoint_is_dequantized_as_transformers_does(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_tiny(next(each for each in CHECKED if each.model_type == name), tmp_path)
    quantize(folder)
    # Without an accelerator transformers dequantizes; the scales are part of the result.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    expected = loaded.state_dict()
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(quantized_on_meta(folder, dequantize=True), index)
    views = read_all(recipes, index)
    assert set(views) == set(expected)
    assert all(torch.equal(view, expected[key]) for key, view in views.items())


def test_a_quantized_module_gets_its_tensors_as_they_are(tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == "qwen3_moe")
    folder = save_tiny(architecture, tmp_path)
    quantize(folder)
    index = CheckpointIndex.of(folder)
    recipes = recipes_for(quantized_on_meta(folder, dequantize=False), index)
    assert all(recipe.conversion is None for recipe in recipes.values())
    views, stored = read_all(recipes, index), load_file(folder / "model.safetensors")
    layer = "model.layers.1"
    for end in ("weight", "weight_scale_inv"):
        name = f"{layer}.self_attn.q_proj.{end}"
        assert views[name].dtype == stored[name].dtype
        assert torch.equal(views[name].float(), stored[name].float())
    expert = views[f"{layer}.mlp.experts.gate_up_proj"][2].float()
    parts = [stored[f"{layer}.mlp.experts.2.{p}_proj.weight"].float() for p in ("gate", "up")]
    assert torch.equal(expert, torch.cat(parts))
    scale = views[f"{layer}.mlp.experts.gate_up_proj_scale_inv"][2]
    parts = [stored[f"{layer}.mlp.experts.2.{p}_proj.weight_scale_inv"] for p in ("gate", "up")]
    assert torch.equal(scale, torch.cat(parts))


def test_a_quantized_checkpoint_without_its_quantizer_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(next(each for each in CHECKED if each.model_type == "llama"), tmp_path)
    quantize(folder)
    with pytest.raises(SpecializationLoadError, match="without the quantizer"):
        recipes_for(model_on_meta(folder, torch.bfloat16), CheckpointIndex.of(folder))


def tied_gemma(folder: Path) -> Path:
    return save_tiny(next(each for each in CHECKED if each.model_type == "gemma2"), folder)


def test_a_tied_name_has_no_recipe_of_its_own(tmp_path: Path) -> None:
    folder = tied_gemma(tmp_path)
    recipes = recipes_for(model_on_meta(folder, torch.bfloat16), CheckpointIndex.of(folder))
    assert "lm_head.weight" not in recipes
    assert "model.embed_tokens.weight" in recipes


def test_a_tied_name_stored_twice_alike_has_one_recipe(tmp_path: Path) -> None:
    folder = tied_gemma(tmp_path)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    require_as_loaded(folder, "causal-lm", torch.bfloat16)


def test_a_tied_name_stored_with_other_values_is_believed(tmp_path: Path) -> None:
    folder = tied_gemma(tmp_path)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    recipes = recipes_for(model_on_meta(folder, torch.bfloat16), CheckpointIndex.of(folder))
    assert "lm_head.weight" in recipes
    require_as_loaded(folder, "causal-lm", torch.bfloat16)


def test_a_source_stored_under_its_tied_name_is_found(tmp_path: Path) -> None:
    folder = tied_gemma(tmp_path)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    recipes = recipes_for(model_on_meta(folder, torch.bfloat16), CheckpointIndex.of(folder))
    assert "lm_head.weight" not in recipes
    assert recipes["model.embed_tokens.weight"].pieces[0].span.name == "lm_head.weight"
    require_as_loaded(folder, "causal-lm", torch.bfloat16)


def test_missing_tensors_are_named_and_counted(saved_llama: Path, tmp_path: Path) -> None:
    tensors = load_file(saved_llama / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
    save_file(kept, tmp_path / "model.safetensors")
    model = model_on_meta(saved_llama, torch.bfloat16)
    with pytest.raises(MalformedModelError, match=r"lacks 6 of 21 .* and 1 more") as raised:
        recipes_for(model, CheckpointIndex.of(tmp_path))
    assert "model.layers.0.mlp.down_proj.weight" in raised.value.message
    assert raised.value.hint


def test_a_tensor_of_another_shape_is_named(saved_llama: Path, tmp_path: Path) -> None:
    config = json.loads((saved_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
    model = model_on_meta(tmp_path, torch.bfloat16)
    with pytest.raises(MalformedModelError, match=r"6 tensors .*\[96, 64\].*\[100, 64\]"):
        recipes_for(model, CheckpointIndex.of(saved_llama))


def test_a_missing_expert_is_told(tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == "qwen3_moe")
    folder = save_tiny(architecture, tmp_path)
    rewrite(folder, lambda t: t.pop("model.layers.0.mlp.experts.2.down_proj.weight"))
    with pytest.raises(MalformedModelError, match=r"experts\.down_proj.*\[3,.*\[4,"):
        recipes_for(model_on_meta(folder, torch.bfloat16), CheckpointIndex.of(folder))


def test_tensors_that_the_model_has_no_place_for_are_passed_over(tmp_path: Path) -> None:
    architecture = next(each for each in CHECKED if each.model_type == "llama")
    folder = save_tiny(architecture, tmp_path)
    left_over = "model.layers.7.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({left_over: torch.zeros(4)}))
    require_as_loaded(folder, "causal-lm", torch.bfloat16)


@st.composite
def arrangements(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[tuple[str, int, int]]]:
    """Sources of one shape, and steps that move them about."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = draw(st.integers(1, 4))
    size = torch.Size(shape).numel()
    sources = [torch.arange(n * size, (n + 1) * size).reshape(shape) for n in range(count)]
    names = st.sampled_from(["stack", "cat", "chunk", "narrow", "transpose", "squeeze"])
    steps = draw(st.lists(st.tuples(names, st.integers(0, 9), st.integers(0, 9)), max_size=5))
    return sources, steps


def arranged(sources: list[torch.Tensor], steps: list[tuple[str, int, int]]) -> torch.Tensor:
    parts = list(sources)
    for step, first, second in steps:
        dims = parts[0].dim()
        if step == "stack" and dims < 5:
            parts = [torch.stack(parts, first % (dims + 1))]
        elif step == "cat" and dims:
            parts = [torch.cat(parts, first % dims)]
        elif step == "chunk" and dims:
            parts = list(torch.chunk(parts[0], 1 + second, first % dims))[:1] * 2
        elif step == "narrow" and dims:
            dim = first % dims
            begin = second % parts[0].shape[dim]
            parts = [part.narrow(dim, begin, part.shape[dim] - begin) for part in parts]
        elif step == "transpose" and dims:
            parts = [part.transpose(first % dims, second % dims).contiguous() for part in parts]
        elif step == "squeeze":
            parts = [part.squeeze() for part in parts]
    return parts[0]


@settings(max_examples=300, deadline=None)
@given(arrangements())
def test_a_trace_knows_where_every_element_comes_from(
    arrangement: tuple[list[torch.Tensor], list[tuple[str, int, int]]],
) -> None:
    sources, steps = arrangement
    expected = arranged(sources, steps)
    stand_ins = [
        TracedTensor.of_source(n, source.shape, source.dtype) for n, source in enumerate(sources)
    ]
    traced = arranged(stand_ins, steps)  # type: ignore[arg-type]
    assert isinstance(traced, TracedTensor)
    assert traced.shape == expected.shape
    flat = torch.full((expected.numel(),), -1)
    for run in runs_of(traced, 10_000):
        begin, end = run.target_element, run.target_element + run.elements
        assert torch.all(flat[begin:end] == -1)
        source = sources[run.source].view(-1)
        flat[begin:end] = source[run.source_element : run.source_element + run.elements]
    assert torch.equal(flat.view(expected.shape), expected)
