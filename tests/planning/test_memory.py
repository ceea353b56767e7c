from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.activations import activation_bytes
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.memory import (
    available_bytes,
    check_budget_holds_a_layer,
    kv_bytes,
)
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.prediction import predict_speed
from ollm_widgets.planning.weights import weight_sizes

GIB = 1024**3
SHAPE = ModelShape(4, 64, 128, 4, 2, 16, 1000, 512)


def test_kv_is_keys_and_values_of_every_layer_and_token() -> None:
    assert kv_bytes(SHAPE, "float32", 100) == 2 * 4 * 2 * 16 * 4 * 100
    assert kv_bytes(SHAPE, "bfloat16", 100) == kv_bytes(SHAPE, "float32", 50)


def test_a_window_bounds_the_kv_cache() -> None:
    assert kv_bytes(SHAPE, "float32", 100, 30) == kv_bytes(SHAPE, "float32", 30)
    assert kv_bytes(SHAPE, "float32", 20, 30) == kv_bytes(SHAPE, "float32", 20)


def test_the_models_own_sliding_layers_keep_their_own_window() -> None:
    types = ("sliding_attention", "full_attention", "linear_attention", "full_attention")
    mixed = replace(SHAPE, sliding_window=10, layer_types=types)
    layer = 2 * 2 * 16 * 4
    assert kv_bytes(mixed, "float32", 100) == layer * (2 * 100 + 10)
    assert kv_bytes(replace(mixed, layer_types=None), "float32", 100) == layer * 4 * 10


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_tokens_never_need_less(first: int, second: int) -> None:
    few, many = sorted((first, second))
    assert kv_bytes(SHAPE, "float32", few) <= kv_bytes(SHAPE, "float32", many)
    assert activation_bytes(SHAPE, "float32", few) <= activation_bytes(SHAPE, "float32", many)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**5))
def test_shorter_chunks_never_need_more(tokens: int, first: int, second: int) -> None:
    short, long = sorted((first, second))
    whole = activation_bytes(SHAPE, "float32", tokens)
    in_short = activation_bytes(SHAPE, "float32", tokens, short)
    assert in_short <= activation_bytes(SHAPE, "float32", tokens, long) <= whole
    assert activation_bytes(SHAPE, "float32", tokens, tokens) == whole


def test_of_a_long_prompt_in_chunks_only_the_residual_stream_and_a_layers_history_are_whole() -> (
    None
):
    more = activation_bytes(SHAPE, "float32", 20_000, 256) - activation_bytes(
        SHAPE, "float32", 10_000, 256
    )
    assert more == 10_000 * (2 * 64 + 2 * 2 * 16) * 4


def test_layers_of_linear_attention_take_a_prompt_whole() -> None:
    mixed = replace(SHAPE, layer_types=("linear_attention", "full_attention") * 2)
    whole = activation_bytes(mixed, "float32", 1000)
    in_chunks = activation_bytes(mixed, "float32", 1000, 100)
    assert whole - in_chunks == 900 * 3 * 128 * 4


def test_a_margin_of_free_memory_stays_free() -> None:
    assert available_bytes(4 * GIB, 2 * GIB, None) == 2 * GIB - GIB // 2
    assert available_bytes(100 * GIB, 50 * GIB, None) == 45 * GIB
    assert available_bytes(4 * GIB, 1000, None) == 0


def test_a_budget_is_obeyed_but_makes_no_memory() -> None:
    assert available_bytes(32 * GIB, 20 * GIB, "6GiB") == 6 * GIB
    assert available_bytes(32 * GIB, 20 * GIB, "60GiB") == 20 * GIB


def test_a_budget_below_one_layer_says_how_much_it_needs(
    model: ResolvedModel, laptop: Machine
) -> None:
    sizes = weight_sizes(model, "float32")
    assert sizes is not None
    with pytest.raises(ConfigError, match="14 MiB") as caught:
        check_budget_holds_a_layer(laptop.cpu, RuntimeConfig("x", cpu_memory_budget="1MiB"), sizes)
    assert caught.value.field == "cpu_memory_budget"


def test_weights_are_counted_in_the_dtype_they_run_in(model: ResolvedModel) -> None:
    half, full = weight_sizes(model, "bfloat16"), weight_sizes(model, "float32")
    assert half is not None
    assert full is not None
    assert half.total_bytes == 2 * 134_515_008
    assert full.total_bytes == 2 * half.total_bytes


def test_the_catalog_alone_gives_the_same_sum(model: ResolvedModel) -> None:
    for shape in (None, model.shape):
        sizes = weight_sizes(replace(model, weights=None, shape=shape), "bfloat16")
        assert sizes is not None
        assert sizes.total_bytes == 2 * 134_515_008
        assert len(sizes.layer_bytes) == 30


def test_of_an_unknown_model_nothing_is_claimed(model: ResolvedModel) -> None:
    profile = replace(model.capabilities, parameters=None, bytes_on_disk=None, dtype=None)
    assert weight_sizes(replace(model, weights=None, capabilities=profile), "float32") is None


def test_a_token_reads_a_tied_embedding_and_not_an_untied_one(
    model: ResolvedModel, large_model: ResolvedModel
) -> None:
    tied, untied = weight_sizes(model, "bfloat16"), weight_sizes(large_model, "bfloat16")
    assert tied is not None
    assert untied is not None
    assert tied.read_per_token_bytes == tied.total_bytes
    assert untied.read_per_token_bytes == untied.total_bytes - 2 * 128_256 * 4096


EXPERTS_BYTES = 2 * 128 * 3 * 2048 * 768


def test_the_experts_of_a_layer_are_those_of_the_tensor_headers(
    expert_model: ResolvedModel,
) -> None:
    assert expert_model.weights is not None
    parameters = (0, *expert_model.weights.expert_parameters[1:])
    weights = replace(expert_model.weights, expert_parameters=parameters)
    sizes = weight_sizes(replace(expert_model, weights=weights), "bfloat16")
    assert sizes is not None
    assert (sizes.experts, sizes.active_experts) == (128, 8)
    assert sizes.expert_bytes == (0, *(EXPERTS_BYTES,) * 23)
    assert sizes.dense_bytes[0] == sizes.layer_bytes[0]
    assert sizes.dense_bytes[1] == 2 * 18_878_720


def test_without_headers_experts_are_what_is_neither_attention_nor_router(
    expert_model: ResolvedModel,
) -> None:
    sizes = weight_sizes(replace(expert_model, weights=None), "bfloat16")
    assert sizes is not None
    # One of them is taken as shared by all tokens.
    assert 0.99 * EXPERTS_BYTES < sizes.expert_bytes[0] <= EXPERTS_BYTES
    assert 2 * 18_878_720 < sizes.dense_bytes[0] < 1.3 * 2 * 18_878_720


@pytest.mark.parametrize("model_type", ["llama4", "dbrx", "jetmoe", None])
def test_layers_whose_experts_are_not_surely_stacked_move_whole(
    expert_model: ResolvedModel, model_type: str | None
) -> None:
    whole = weight_sizes(replace(expert_model, model_type=model_type), "bfloat16")
    single = weight_sizes(expert_model, "bfloat16")
    assert whole is not None
    assert single is not None
    assert whole.dense_bytes == whole.layer_bytes == single.layer_bytes
    # What a token reads once the weights are there is the same.
    assert whole.read_per_token_bytes == single.read_per_token_bytes


def test_a_mixture_of_experts_reads_its_active_experts_only(large_model: ResolvedModel) -> None:
    assert large_model.weights is not None
    profile = replace(large_model.capabilities, experts=8, active_experts=2)
    most = tuple(count * 4 // 5 for count in large_model.weights.layer_parameters)
    weights = replace(large_model.weights, expert_parameters=most)
    dense = weight_sizes(large_model, "bfloat16")
    mixture = weight_sizes(replace(large_model, capabilities=profile, weights=weights), "bfloat16")
    assert dense is not None
    assert mixture is not None
    assert mixture.total_bytes == dense.total_bytes
    assert 0.25 < mixture.read_per_token_bytes / dense.read_per_token_bytes < 0.5


def test_decoding_is_bound_by_reading_and_a_prompt_by_arithmetic(
    large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    sizes = weight_sizes(large_model, "bfloat16")
    assert sizes is not None

    def predict(read: float, flops: float, use_cache: bool = True) -> tuple[float, float]:
        speed = predict_speed(
            sizes,
            large_model.shape,
            "bfloat16",
            Bandwidth(read, flops),
            context_tokens=4096,
            use_cache=use_cache,
        )
        assert speed is not None
        return speed.seconds_per_token, speed.time_to_first_token_s

    token_s, first_s = predict(10e9, 100e9)
    assert token_s == pytest.approx(1.5, rel=0.05)  # 15 GB at 10 GB/s
    assert first_s == pytest.approx(71.5, rel=0.05)  # 2 x 7.0e9 x 512 at 100 GFLOP/s
    faster_token_s, same_first_s = predict(20e9, 100e9)
    assert faster_token_s < 0.55 * token_s
    assert same_first_s == first_s
    assert predict(10e9, 100e9, use_cache=False)[0] == first_s
