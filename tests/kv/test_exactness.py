"""Every strategy that is lossless gives the tokens that transformers' dynamic cache gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache as remembered
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from ollm_widgets.planning.kv_presets import KV_PRESETS, preset_of
from ollm_widgets.weights.model.structure import DecoderStructure, decoder_structure
from ollm_widgets.weights.prefill.chunked import ChunkedPrefill
from tests.models.architectures import ARCHITECTURES, build

NAMES = (
    "llama",
    "qwen2",
    "qwen3_moe",
    "qwen3_next",
    "gemma2",
    "qwen2_vl",
    "phi",
    "gpt2",
    "gpt_oss",
    "olmo2",
    "deepseek_v3",
    "falcon",
)
TIERED = [preset.strategy_id for preset in KV_PRESETS if preset.lossless and preset.uses_disk]
# Twelve tokens of a layer are hot at most, so that all prompts here reach every tier.
PAGE, HOT = 4, 12
# Nats, of the int8 and int4 codecs on models of random weights and heads of 8 channels.
KL_BOUNDS = {"int8": 1e-4, "int4": 2e-2}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@remembered
def model_of(name: str) -> PreTrainedModel:
    model = build(next(each for each in ARCHITECTURES if each.model_type == name))
    model.generation_config.eos_token_id = None
    return model.float().eval()


def tokens(seed: int, count: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(3, 60, (batch, count), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def generate(
    model: PreTrainedModel, cache: Cache, ids: torch.Tensor, new: int = 5, **options: Any
) -> torch.Tensor:
    options = {"do_sample": False, "pad_token_id": 0, **options}
    made: torch.Tensor = model.generate(
        ids, past_key_values=cache, max_new_tokens=new, min_new_tokens=new, **options
    )
    return made


def one_shot(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    return generate(model, cache, tokens(1, 26), 7)


def prefill_in_chunks(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    return generate(model, cache, tokens(2, 27), prefill_chunk_size=6)


def three_turns(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    ids = tokens(3, 19)
    for turn in range(3):
        ids = generate(model, cache, torch.cat([ids, tokens(turn, 5)], dim=1), 4)
    return ids


def a_turn_is_edited(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    if not cache.is_croppable:
        pytest.skip("its state cannot go back")
    generate(model, cache, tokens(4, 9), 3)
    cache.activate_past_recording()
    ids = generate(model, cache, tokens(4, 23), 4)
    kept = 14
    cache.crop(kept - cache.get_seq_length())
    return generate(model, cache, torch.cat([ids[:, :kept], tokens(5, 7)], dim=1), 5)


def a_batch_with_padding(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    ids = tokens(6, 22, batch=3)
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 7, 13)):
        ids[row, :padding] = mask[row, :padding] = 0
    return generate(model, cache, ids, attention_mask=mask)


def beams(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    return generate(model, cache, tokens(7, 18), 6, num_beams=3)


def guessed_ahead(model: PreTrainedModel, cache: Cache) -> torch.Tensor:
    if not cache.is_croppable:
        pytest.skip("its state cannot go back")
    ids = tokens(8, 6).repeat(1, 4)
    return generate(model, cache, ids, 8, prompt_lookup_num_tokens=3)


SCENARIOS = (
    one_shot,
    prefill_in_chunks,
    three_turns,
    a_turn_is_edited,
    a_batch_with_padding,
    beams,
    guessed_ahead,
)


@remembered
def expected(name: str, scenario: Callable[..., torch.Tensor]) -> torch.Tensor | str:
    """The tokens, or why not even transformers' own cache gives any."""
    try:
        return scenario(model_of(name), DynamicCache(config=model_of(name).config))
    except (RuntimeError, ValueError, TypeError) as error:
        return f"{name} does not do this with a dynamic cache: {error}"


@remembered
def budget_of(name: str, *, reads_ahead: bool) -> KVBudget:
    """Room for `HOT` tokens and one slot, or none at all, which takes as little as can be."""
    if not reads_ahead:
        return KVBudget(0, 0)
    model = model_of(name)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(tokens(0, 1), past_key_values=cache)
    sizes = [
        layer.keys.nbytes + layer.values.nbytes
        for layer in cache.layers
        if type(layer) is DynamicLayer
    ]
    transfers, slots = 3 * 4096, min(2, len(sizes))
    return KVBudget(transfers + HOT * sum(sizes) + slots * 44 * max(sizes), 4 * sum(sizes))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_lossless_strategies_give_the_tokens_of_a_dynamic_cache(
    name: str, scenario: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    model, wanted = model_of(name), expected(name, scenario)
    if isinstance(wanted, str):
        pytest.skip(wanted)
    for number, strategy in enumerate(TIERED):
        budget = budget_of(name, reads_ahead=number % 2 == 0)
        with build_tiered(model, tmp_path, strategy, budget) as cache:
            made = scenario(model, cache)
            assert torch.equal(made, wanted), strategy
            cache.flush()
            stats = cache.stats()
            assert stats.evicted_pages > 0
            assert stats.hot_tokens < stats.tokens
            assert stats.disk_bytes > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3", "qwen3_next"])
def test_a_prompt_may_go_through_each_layer_in_chunks(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    structure = decoder_structure(model)
    assert isinstance(structure, DecoderStructure)
    with ChunkedPrefill(structure, model, 7):
        wanted = three_turns(model, DynamicCache(config=model.config))
        for number, strategy in enumerate(TIERED):
            budget = budget_of(name, reads_ahead=number % 2 == 0)
            with build_tiered(model, tmp_path, strategy, budget) as cache:
                assert torch.equal(three_turns(model, cache), wanted)
                assert cache.stats().evicted_pages > 0


def test_an_emptied_cache_is_as_good_as_a_new_one(tmp_path: Path) -> None:
    for strategy in TIERED:
        with build_tiered(model_of("qwen2"), tmp_path, strategy) as cache:
            for scenario in (*SCENARIOS, *SCENARIOS):
                cache.reset()
                wanted = expected("qwen2", scenario)
                assert isinstance(wanted, torch.Tensor)
                assert torch.equal(scenario(model_of("qwen2"), cache), wanted)


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_quantized_tokens_change_the_logits_by_little(
    name: str, codec: Any, tmp_path: Path
) -> None:
    model, ids = model_of(name), tokens(9, 40)
    plain = DynamicCache(config=model.config)
    quantized = build_cache(
        model,
        "quantized-cold-tier",
        budget=budget_of(name, reads_ahead=True),
        folder=tmp_path,
        codec=codec,
        page_tokens=PAGE,
    )
    assert isinstance(quantized, TieredCache)
    with torch.inference_mode(), quantized:
        for start in range(0, ids.shape[1], 5):
            step = ids[:, start : start + 5]
            wanted, given = (
                model(step, past_key_values=cache).logits.log_softmax(-1)
                for cache in (plain, quantized)
            )
            divergence = (wanted.exp() * (wanted - given)).sum(-1)
            assert divergence.mean() < KL_BOUNDS[codec]
        quantized.flush()
        assert quantized.stats().host_bytes > 0
        assert quantized.stats().disk_bytes > 0


def test_an_encoder_decoder_model_keeps_its_own_tokens_in_tiers(tmp_path: Path) -> None:
    model, ids = model_of("bart"), tokens(1, 12)
    with build_tiered(model, tmp_path) as cache, torch.inference_mode():
        made, plain = (
            model.generate(
                ids,
                past_key_values=EncoderDecoderCache(own, DynamicCache()),
                max_new_tokens=24,
                min_new_tokens=24,
                do_sample=False,
                decoder_start_token_id=1,
            )
            for own in (cache, DynamicCache())
        )
        assert torch.equal(made, plain)
        cache.flush()
        assert cache.stats().disk_bytes > 0


def test_layers_whose_keys_are_read_again_by_later_layers_stay_with_transformers(
    tmp_path: Path,
) -> None:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    full, sliding = "full_attention", "sliding_attention"
    torch.manual_seed(0)
    config = Gemma3nTextConfig(
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        sliding_window=8,
        layer_types=[full, full, sliding, full, sliding, full],
        num_kv_shared_layers=2,
        altup_num_inputs=2,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 6,
    )
    model = Gemma3nForCausalLM(config).float().eval()
    model.generation_config.eos_token_id = None
    with build_tiered(model, tmp_path) as cache:
        assert cache.replaced_layers == (0, 1)
        made = generate(model, cache, tokens(1, 26), 7)
        assert torch.equal(made, generate(model, DynamicCache(config=config), tokens(1, 26), 7))
        cache.flush()
        assert cache.stats().disk_bytes > 0


def test_gradients_and_inference_mode_may_be_mixed(tmp_path: Path) -> None:
    model, ids = model_of("llama"), tokens(2, 30)
    plain = DynamicCache(config=model.config)
    with build_tiered(model, tmp_path) as cache:
        for number, start in enumerate(range(0, 30, 3)):
            step = ids[:, start : start + 3]
            mode = (torch.inference_mode, torch.no_grad, torch.enable_grad)[number % 3]
            with mode():
                given = model(step, past_key_values=cache).logits
            with torch.no_grad():
                assert torch.equal(given, model(step, past_key_values=plain).logits)


def build_tiered(
    model: PreTrainedModel, folder: Path, strategy: Any = "paged", budget: KVBudget | None = None
) -> TieredCache:
    cache = build_cache(
        model, strategy, budget=budget or KVBudget(0, 0), folder=folder, page_tokens=PAGE
    )
    assert isinstance(cache, TieredCache)
    assert preset_of(cache.strategy).uses_disk
    return cache
