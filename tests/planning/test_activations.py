"""Intermediate results: what the arithmetic says against what torch allocates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.activations import activation_bytes, streamed_activation_bytes
from ollm_widgets.planning.attention_work import SCORING_FAMILIES
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.memory import kv_bytes
from tests.models.architectures import LINEAR, Architecture
from tests.planning.allocations import (
    DECODERS,
    built,
    one_thread,
    peak_bytes,
    prompt_pass,
    widened,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Built = Callable[[Architecture], "tuple[PreTrainedModel, ResolvedModel]"]
SHAPE = ModelShape(4, 64, 128, 4, 2, 16, 1000, 512)
# torch's own arithmetic for linear attention makes matrices of a size that the config decides,
# and a shape does not tell.
COUNTED = [each for each in DECODERS if LINEAR not in (each.layer_types or ())]
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "qwen2_vl", "granite", "olmo2")
LIKE_LLAMA += ("qwen3_moe", "mixtral", "phi", "phi3", "gpt2", "voxtral")
# Beside the results: what the C library keeps, as much again, and a workspace, of at most this.
WORKSPACE_BYTES = 16 * 1024**2
# What arithmetic of 16 bits copies of a matrix for a moment.
SCRATCH_BYTES = 1024**2


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def build_wide(tmp_path_factory: pytest.TempPathFactory) -> Built:
    made: dict[str, tuple[PreTrainedModel, ResolvedModel]] = {}

    def make(architecture: Architecture) -> tuple[PreTrainedModel, ResolvedModel]:
        name = architecture.model_type
        if name not in made:
            made[name] = built(widened(architecture), tmp_path_factory.mktemp("wide") / name)
        return made[name]

    return make


def planned(
    model: ResolvedModel, dtype: DType, tokens: int, chunk: int | None = None
) -> tuple[int, int]:
    """Activations and KV cache, both alive at the peak; then those that torch gives out itself."""
    assert model.shape is not None
    work = streamed_activation_bytes(model, dtype, tokens, chunk, "cpu")
    cached = kv_bytes(model.shape, dtype, tokens)
    return work + cached, max((work - WORKSPACE_BYTES) // 2, work // 3) + cached


def makes_scores(model: PreTrainedModel) -> bool:
    """Whether this version of transformers computes the model's attention without a kernel."""
    return bool(model.config.get_text_config(decoder=True)._attn_implementation == "eager")


def most_of(architecture: Architecture, model: PreTrainedModel) -> float:
    """How many times what torch gives out may be planned."""
    if architecture.model_type in LIKE_LLAMA:
        return 1.15
    # An older transformers has a kernel for what a newer one scores: too much is planned there.
    fused = architecture.model_type in SCORING_FAMILIES and not makes_scores(model)
    return 4.0 if fused else 1.75


@pytest.mark.parametrize("tokens", [64, 512])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", COUNTED, ids=str)
def test_a_prompt_takes_what_was_planned_and_never_more(
    architecture: Architecture, dtype: DType, tokens: int, build_wide: Built
) -> None:
    import torch

    model, resolved = build_wide(architecture)
    run = prompt_pass(model.to(getattr(torch, dtype)), tokens)
    run()
    measured = peak_bytes(run)
    most, bare = planned(resolved, dtype, tokens)
    assert measured <= most
    assert measured <= 1.05 * bare + SCRATCH_BYTES
    assert bare <= most_of(architecture, model) * measured


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 128), ("bfloat16", 300)])
@pytest.mark.parametrize("architecture", COUNTED, ids=str)
def test_a_prompt_in_chunks_takes_what_was_planned_and_never_more(
    architecture: Architecture, dtype: DType, rows: int, build_wide: Built
) -> None:
    import torch

    from ollm_widgets.weights.model.structure import decoder_structure
    from ollm_widgets.weights.prefill.chunked import ChunkedPrefill

    model, resolved = build_wide(architecture)
    model.to(getattr(torch, dtype))
    run = prompt_pass(model, 1024)
    with ChunkedPrefill(decoder_structure(model), model, rows):
        run()
        measured = peak_bytes(run)
    most, bare = planned(resolved, dtype, 1024, rows)
    assert measured <= most
    assert measured <= 1.05 * bare + SCRATCH_BYTES
    assert bare <= most_of(architecture, model) * measured


@pytest.mark.parametrize("architecture", COUNTED, ids=str)
def test_a_decoded_token_takes_less_than_its_prompt(
    architecture: Architecture, build_wide: Built
) -> None:
    import torch

    model, resolved = build_wide(architecture)
    cache = prompt_pass(model.float(), 64)().past_key_values

    def step() -> None:
        with torch.inference_mode():
            model(input_ids=torch.tensor([[5]]), past_key_values=cache, use_cache=True)

    step()
    assert peak_bytes(step) <= streamed_activation_bytes(resolved, "float32", 64, None, "cpu")


@pytest.mark.parametrize("architecture", COUNTED, ids=str)
def test_families_that_make_scores_are_known(architecture: Architecture, build_wide: Built) -> None:
    model, resolved = build_wide(architecture)
    assert resolved.model_type in SCORING_FAMILIES or not makes_scores(model)


def test_of_a_long_prompt_in_chunks_only_what_every_row_keeps_is_whole() -> None:
    more = activation_bytes(SHAPE, "float32", 20_000, 256) - activation_bytes(
        SHAPE, "float32", 10_000, 256
    )
    # Embedded, into and out of a layer, positions; keys, values and these for all query heads.
    assert more == 10_000 * ((3 * 64 + 2 * 16 + 2 * 32 + 2 * 64) * 4 + 2 * 8)


def test_layers_of_linear_attention_take_a_prompt_whole() -> None:
    mixed = replace(SHAPE, layer_types=("linear_attention", "full_attention") * 2)
    whole = activation_bytes(mixed, "float32", 1000)
    in_chunks = activation_bytes(mixed, "float32", 1000, 100)
    plain = activation_bytes(SHAPE, "float32", 1000, 100)
    assert plain < in_chunks <= whole


def test_a_window_within_the_prompt_costs_a_mask_of_its_square(model: ResolvedModel) -> None:
    assert model.shape is not None
    slides = replace(model, shape=replace(model.shape, sliding_window=1000))

    def more(tokens: int) -> int:
        sliding = streamed_activation_bytes(slides, "bfloat16", tokens, None, "cpu")
        return sliding - streamed_activation_bytes(model, "bfloat16", tokens, None, "cpu")

    assert more(999) == 0
    assert more(8000) > 8000**2


def test_scores_of_a_family_without_a_fused_kernel_grow_with_the_square(
    model: ResolvedModel,
) -> None:
    assert model.shape is not None
    scoring = replace(model, model_type="gemma2")
    heads = model.shape.attention_heads
    took = streamed_activation_bytes(scoring, "bfloat16", 4096, None, "cpu")
    assert took > heads * 4096**2 * 8
    chunked = streamed_activation_bytes(scoring, "bfloat16", 4096, 256, "cpu")
    assert chunked < took / 4


def test_on_cuda_libraries_keep_a_workspace(model: ResolvedModel) -> None:
    on_cpu = streamed_activation_bytes(model, "bfloat16", 512, None, "cpu")
    on_cuda = streamed_activation_bytes(model, "bfloat16", 512, None, "cuda")
    assert 64 * 1024**2 < on_cuda - on_cpu / 3 < 128 * 1024**2
