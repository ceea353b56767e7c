"""Decode steps over pages in host memory, on a CUDA device; skipped where there is none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ollm_widgets.kv.attention.launching import ColdPart, SplitDecode, Tuning, kernels
from ollm_widgets.kv.attention.paged_cache import PagedCache
from ollm_widgets.kv.attention.plain import attend
from ollm_widgets.kv.attention.room import KVTiers, page_shape
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.weights.steps.capture import CapturedSteps
from tests.kv.attention.pages import encoded_history

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(kernels() is None, reason="needs Triton"),
]

NOISE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def llama(dtype: torch.dtype = torch.bfloat16, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))
    return model.to(device="cuda", dtype=dtype).eval()


def tiers(
    model: PreTrainedModel, batch: int, tokens: int, hot: int, codec: str = "full"
) -> KVTiers:
    """A budget with which about `hot` tokens of each sequence stay on the device."""
    page = page_shape(model.config, batch, model.dtype)
    assert page is not None
    layers = model.config.num_hidden_layers
    pages = -(-tokens // page.tokens)
    in_flight = pages + 4 * -(-pages // 4)
    return KVTiers(KVBudget((in_flight + layers * hot // page.tokens) * page.raw_bytes), codec)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        (torch.bfloat16, 64),
        (torch.bfloat16, 80),
        (torch.float16, 96),
        (torch.bfloat16, 112),
        (torch.bfloat16, 128),
        (torch.bfloat16, 256),
        (torch.float32, 128),
        (torch.float32, 256),
    ],
    ids=str,
)
@pytest.mark.parametrize("codec", ["full", "int8", "int4"])
def test_the_kernels_attend_to_pages_wherever_they_are(
    dtype: torch.dtype, width: int, codec: str, device: torch.device
) -> None:
    for heads, group, batch, masked in ((2, 4, 1, False), (1, 7, 3, True)):
        history = encoded_history(
            codec_named(codec),
            batch=batch,
            heads=heads,
            tokens=1000,
            cold=11,
            widths=(width, width),
            dtype=dtype,
            device=device,
            ring=512,
        )
        query = torch.randn(batch, heads * group, 1, width, device=device).to(dtype)
        mask = None
        if masked:
            mask = torch.ones(batch, 1, 1, 1024, dtype=torch.bool, device=device)
            mask[1, ..., :100] = mask[2, ..., :1] = False
        split = SplitDecode(
            query,
            heads,
            width,
            history.position,
            cold_pages=history.cold_pages,
            scale=width**-0.5,
            mask=mask,
            cold_parts=2,
            tuning=Tuning(cold_splits=4),
        )
        split.hot(history.ring_keys, history.ring_values, 64)
        split.cold(ColdPart(history.table, 0, 0, 7), history.page, history.codec)
        split.cold(ColdPart(history.table, 7, 7), history.page, history.codec)
        expected = attend(
            query.double(),
            history.keys.double(),
            history.values.double(),
            scale=width**-0.5,
            mask=None if mask is None else mask[..., :1000],
        )
        error = torch.linalg.vector_norm(split.merged().double() - expected)
        assert error <= NOISE[dtype] * torch.linalg.vector_norm(expected)


def forced(
    model: PreTrainedModel, known: torch.Tensor, mask: torch.Tensor, prompt: int
) -> list[torch.Tensor]:
    """Logits of transformers' own loop for known tokens, after the prompt and each further one."""
    cache, logits = DynamicCache(config=model.config), []
    cuts = [0, *range(prompt, known.shape[1] + 1)]
    with torch.inference_mode():
        for start, stop in itertools.pairwise(cuts):
            seen = mask[:, :stop]
            positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, start:stop]
            out = model(
                known[:, start:stop],
                attention_mask=seen if not bool(mask.all()) else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits.append(out.logits[:, -1].float())
    return logits


def stepped(
    steps: CapturedSteps, known: torch.Tensor, mask: torch.Tensor, prompt: int
) -> Iterator[torch.Tensor]:
    with torch.inference_mode():
        steps.begin(known.shape[0], known.shape[1], padded=not bool(mask.all()))
        yield steps.prefill(known[:, :prompt], mask[:, :prompt]).float().clone()
        for token in range(prompt, known.shape[1]):
            yield steps.step(known[:, token : token + 1]).float().clone()


def known_tokens(
    lengths: Sequence[int], new: int, vocabulary: int = 1000
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    longest = max(lengths)
    ids = torch.randint(3, vocabulary, (len(lengths), longest + new), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : longest - length] = 0
    return ids.masked_fill(mask == 0, 0).cuda(), mask.cuda()


def worst(ours: Iterator[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Largest difference of logits, as a share of the reference's spread."""
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("lengths", [(700,), (500, 700, 631)], ids=["one", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_over_cold_pages_are_the_models_but_for_noise(
    dtype: torch.dtype, lengths: tuple[int, ...], device: torch.device
) -> None:
    model = llama(dtype)
    known, mask = known_tokens(lengths, 500)
    theirs = forced(model, known, mask, max(lengths))
    steps = CapturedSteps(
        model, device, tiers=tiers(model, len(lengths), 1536, 400), planned_tokens=1536
    )
    ours = worst(stepped(steps, known, mask, max(lengths)), theirs)
    assert (steps.refusal, steps.captured) == (None, True)
    assert isinstance(steps.cache, PagedCache)
    assert steps.cache.cold_pages >= 11
    assert ours <= (1e-4 if dtype is torch.float32 else 0.15)
    steps.close()


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_captured_steps_over_quantized_pages_do_what_eager_ones_do(
    codec: str, device: torch.device
) -> None:
    model = llama(torch.float32)
    known, mask = known_tokens((900,), 200)
    budget = tiers(model, 1, 1536, 400, codec)
    captured = CapturedSteps(model, device, tiers=budget, planned_tokens=1536)
    ours = list(stepped(captured, known, mask, 900))
    assert captured.refusal is None
    captured.close()
    eager = CapturedSteps(model, device, tiers=budget, planned_tokens=1536)
    eager._can_record = lambda: False  # type: ignore[method-assign]
    others = list(stepped(eager, known, mask, 900))
    assert eager.refusal
    assert eager._unread == ""
    # A state on the border of two codes may get the other one.
    assert worst(iter(ours), others) <= (5e-3 if codec == "int8" else 5e-2)
    exact = forced(model, known, mask, 900)
    assert worst(iter(ours), exact) <= (0.05 if codec == "int8" else 1.0)
    eager.close()


def test_a_rewind_into_cold_pages_brings_them_back(device: torch.device) -> None:
    model = llama(torch.float32)
    known, mask = known_tokens((900,), 100)
    steps = CapturedSteps(model, device, tiers=tiers(model, 1, 1024, 300))
    list(stepped(steps, known, mask, 900))
    assert isinstance(steps.cache, PagedCache)
    assert steps.cache.cold_pages > 333 // 64
    other = known.clone()
    other[:, 333:] = known[:, 333:].flip(-1)
    with torch.inference_mode():
        steps.begin(1, 1000, keep=333)
        ours = [steps.prefill(other[:, :600], mask[:, :600]).float().clone()]
        ours += [steps.step(other[:, t : t + 1]).float().clone() for t in range(600, 700)]
    theirs = forced(model, other[:, :700], mask[:, :700], 600)
    assert worst(iter(ours), theirs) <= 1e-4
    steps.close()


def test_ranges_read_from_any_tier_are_what_was_written(device: torch.device) -> None:
    model = llama()
    known, mask = known_tokens((900,), 150)
    budget = tiers(model, 1, 1536, 300)
    steps = CapturedSteps(model, device, tiers=budget, planned_tokens=1536)
    list(stepped(steps, known, mask, 900))
    plain = CapturedSteps(model, device)
    list(stepped(plain, known, mask, 900))
    cold, hot = steps.cache, plain.cache
    assert isinstance(cold, PagedCache)
    assert hot is not None
    for start, stop in ((0, 900), (0, 64), (60, 70), (130, 899), (700, 900)):
        # The first layer's states depend on tokens alone.
        pairs = zip(
            cold.layers[0].read_tokens(start, stop),
            hot.layers[0].read_tokens(start, stop),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    assert cold.stats().host_bytes > 0
    assert cold.stats().tokens == 1050
    steps.close()
    plain.close()


def test_our_attention_is_captured_for_plain_resident_steps(device: torch.device) -> None:
    model = llama()
    known, mask = known_tokens((300,), 200)
    theirs = forced(model, known, mask, 300)
    steps = CapturedSteps(model, device, fuse=True)
    assert worst(stepped(steps, known, mask, 300), theirs) <= 0.15
    assert steps.refusal is None
    assert steps.attention_refusal == ""
    steps.close()


def test_closing_gives_host_memory_back(device: torch.device) -> None:
    model = llama()
    known, mask = known_tokens((900,), 20)
    steps = CapturedSteps(model, device, tiers=tiers(model, 1, 1024, 300))
    list(stepped(steps, known, mask, 900))
    layer = steps.cache.layers[0] if steps.cache is not None else None
    assert layer is not None
    assert layer.host_bytes > 0
    steps.close()
    assert layer.host_bytes == 0
    assert steps.cache is None
