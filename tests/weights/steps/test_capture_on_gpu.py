"""Captured steps on a CUDA device; skipped where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ollm_widgets import GenerationConfig
from ollm_widgets.runtime.decoding import decode_ids
from ollm_widgets.runtime.generation import effective_generation
from ollm_widgets.weights.steps.capture import CapturedSteps
from tests.models.architectures import ARCHITECTURES, Architecture, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DECODERS = [a for a in ARCHITECTURES if a.kind not in ("seq2seq-lm", "speech-seq2seq")]
# Their kernels or their Python may not allow a capture; eagerly they must be right all the same.
# Falcon indexes by a Python list; tiny gemma3 replaces image tokens that are beyond its vocabulary.
MAY_REFUSE = {"mamba2", "qwen3_next", "falcon", "gemma3"}


def llama(dtype: torch.dtype = torch.float32, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))
    return model.to(device="cuda", dtype=dtype).eval()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def steps(device: torch.device) -> Iterator[CapturedSteps]:
    runner = CapturedSteps(llama(), device)
    yield runner
    runner.close()


def decode(
    steps: CapturedSteps,
    ids: torch.Tensor,
    mask: torch.Tensor,
    asked: GenerationConfig,
    *,
    read_behind: bool = True,
    keep: int = 0,
) -> torch.Tensor:
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    with torch.inference_mode():
        return decode_ids(
            steps.model,
            steps,
            ids,
            mask,
            effective_generation(steps.model, asked, asked.max_new_tokens),
            new_tokens=asked.max_new_tokens,
            cancel=threading.Event(),
            watch=lambda _ids: False,
            read_behind=read_behind,
            keep=keep,
        )


def generated(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, asked: GenerationConfig
) -> torch.Tensor:
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    out: torch.Tensor = model.generate(
        ids,
        attention_mask=mask,
        generation_config=effective_generation(model, asked, asked.max_new_tokens),
    )
    return out


def prompts(lengths: tuple[int, ...], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return ids.masked_fill(mask == 0, 0).cuda(), mask.cuda()


@pytest.mark.parametrize("lengths", [(9,), (9, 4, 7)], ids=["one", "padded"])
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_tokens_in_float32_are_those_of_generate(
    architecture: Architecture, lengths: tuple[int, ...], device: torch.device
) -> None:
    model = build(architecture).float().eval().to(device)
    runner = CapturedSteps(model, device)
    ids, mask = prompts(lengths, 64)
    asked = GenerationConfig(max_new_tokens=40)
    expected = generated(model, ids, mask, asked)
    for behind in (True, False):
        assert torch.equal(decode(runner, ids, mask, asked, read_behind=behind), expected)
    if runner.resumable and len(lengths) == 1:
        # The same again is a step.
        assert torch.equal(decode(runner, ids, mask, asked, keep=lengths[0] - 1), expected)
    refusal = runner.refusal
    runner.close()
    if architecture.model_type not in MAY_REFUSE:
        assert refusal is None


def test_a_seeded_sample_is_that_of_generate(steps: CapturedSteps) -> None:
    ids, mask = prompts((12,), 1000)
    for asked in (
        GenerationConfig(max_new_tokens=40, temperature=0.8, top_p=0.9, seed=3),
        GenerationConfig(max_new_tokens=40, temperature=1.2, top_k=7, min_p=0.02, seed=4),
        GenerationConfig(max_new_tokens=40, repetition_penalty=1.3),
    ):
        assert torch.equal(
            decode(steps, ids, mask, asked), generated(steps.model, ids, mask, asked)
        )


@pytest.mark.parametrize("fuse", [False, True])
def test_logits_in_bfloat16_are_those_of_the_model_but_for_its_noise(
    fuse: bool, device: torch.device
) -> None:
    model = llama(torch.bfloat16)
    runner = CapturedSteps(model, device, fuse=fuse)
    ids, mask = prompts((40,), 1000)
    known = generated(model, ids, mask, GenerationConfig(max_new_tokens=60))
    with torch.inference_mode():
        whole = model(known).logits[0].float()
        # Two ways in which the model itself computes them: what they differ by is noise.
        cache, single = DynamicCache(config=model.config), []
        for token in known[0]:
            out = model(token.view(1, 1), past_key_values=cache, use_cache=True)
            single.append(out.logits[0, -1].float())
        noise = 2 * max(float((a - b).abs().max()) for a, b in zip(whole, single, strict=True))
        runner.begin(1, known.shape[1])
        logits = [runner.prefill(ids, mask)[0].float()]
        logits += [runner.step(token.view(1, 1))[0].float() for token in known[0, 40:-1]]
    assert runner.refusal is None
    for position, ours in enumerate(logits, start=39):
        reference = single[position]
        assert float((ours - reference).abs().max()) <= noise
        best = reference.topk(2).values
        if float(best[0] - best[1]) > noise:
            assert int(ours.argmax()) == int(reference.argmax())
    runner.close()


def test_a_request_that_needs_more_is_captured_anew_and_right(steps: CapturedSteps) -> None:
    for length, new in ((20, 30), (500, 100), (30, 40)):
        ids, mask = prompts((length,), 1000)
        asked = GenerationConfig(max_new_tokens=new)
        assert torch.equal(
            decode(steps, ids, mask, asked), generated(steps.model, ids, mask, asked)
        )
    assert steps.captured
    assert steps.capacity == 1024


def test_nothing_is_allocated_for_a_token(steps: CapturedSteps) -> None:
    ids, mask = prompts((12,), 1000)
    with torch.inference_mode():
        steps.begin(1, 200)
        steps.prefill(ids, mask)
        steps.step()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(100):
            steps.step()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_closing_gives_all_memory_back(device: torch.device) -> None:
    model = llama()

    def use() -> int:
        runner = CapturedSteps(model, device)
        ids, mask = prompts((12, 5), 1000)
        decode(runner, ids, mask, GenerationConfig(max_new_tokens=20))
        assert runner.captured
        runner.close()
        return torch.cuda.memory_allocated()

    # cuBLAS has kept a workspace for the stream of the capture, once.
    first = use()
    assert use() == first
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 256 * 2**20


class _Waits:
    """A hook that asks the device for a number."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output if output.sum().item() < 1e30 else output / 2


class _Selects:
    """A hook whose result has a shape that only the device knows on the way."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output[output > 1e30].sum()


class _Uploads:
    """A hook that makes a tensor out of numbers."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.tensor([1.0], device=output.device)


class _Fails:
    """A hook that raises while a stream captures, and then only."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("not in a capture")
        return output


class _Invalidates:
    """A hook that does what no operation of torch shows: CUDA itself gives the capture up."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        torch.cuda.current_stream().synchronize()
        return output


@pytest.mark.parametrize("hook", [_Waits(), _Selects(), _Uploads(), _Fails(), _Invalidates()])
def test_a_model_that_cannot_be_captured_runs_eagerly_and_cuda_is_as_before(
    hook: Any, device: torch.device
) -> None:
    model = llama()
    handle = model.model.layers[2].mlp.register_forward_hook(hook)
    runner = CapturedSteps(model, device)
    ids, mask = prompts((12,), 1000)
    asked = GenerationConfig(max_new_tokens=20)
    assert torch.equal(decode(runner, ids, mask, asked), generated(model, ids, mask, asked))
    assert runner.refusal
    assert not runner.captured
    assert not torch.cuda.is_current_stream_capturing()
    handle.remove()
    # Random numbers, the allocator and another capture work on.
    sampled = GenerationConfig(max_new_tokens=20, temperature=0.9, seed=1)
    assert torch.equal(decode(runner, ids, mask, sampled), generated(model, ids, mask, sampled))
    runner.close()
    torch.cuda.empty_cache()
    other = CapturedSteps(model, device)
    assert torch.equal(decode(other, ids, mask, asked), generated(model, ids, mask, asked))
    assert other.refusal is None
    other.close()


def test_copies_on_another_stream_are_captured_with_the_step(device: torch.device) -> None:
    """A weight that comes from host memory in every step, as a streamed layer's does."""
    model = llama()
    weight = model.model.layers[1].mlp.down_proj.weight
    host = weight.detach().cpu().pin_memory()
    copies = torch.cuda.Stream()
    arrived: list[torch.cuda.Event] = []

    def fork() -> None:
        copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(copies):
            weight.data.copy_(host, non_blocking=True)
            event = torch.cuda.Event()
            event.record(copies)
        arrived[:] = [event]

    def wait(_module: Any, _args: Any) -> None:
        if arrived:
            torch.cuda.current_stream().wait_event(arrived[0])

    def join() -> None:
        torch.cuda.current_stream().wait_stream(copies)
        arrived.clear()

    ids, mask = prompts((12,), 1000)
    asked = GenerationConfig(max_new_tokens=30)
    expected = generated(model, ids, mask, asked)
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(wait)
    runner = CapturedSteps(model, device, before_step=fork, after_step=join)
    assert torch.equal(decode(runner, ids, mask, asked), expected)
    assert runner.captured
    # The copy is part of each replay: what the host holds is what the steps use.
    host.zero_()
    runner.begin(1, 60)
    with torch.inference_mode():
        runner.prefill(ids, mask)
        runner.step()
        torch.cuda.synchronize()
        assert float(weight.abs().max()) == 0
    handle.remove()
    runner.close()
