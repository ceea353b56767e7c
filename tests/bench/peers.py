"""What people run today, loaded as its makers show: transformers, accelerate, AirLLM."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
from decoding import Generate, Pick, Reference, compare, prompt, refer, time_decoding
from figures import Bench, Figures
from shapes import Shape

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_HOST_ROOM = "100GiB"


def from_pretrained(checkpoint: Path, device: str) -> PreTrainedModel:
    """The whole model on one device."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, device_map=device
    )
    machine.synchronize()
    return model


def offloaded(checkpoint: Path, device: str, budget: str, scratch: Path, *, disk: bool) -> Any:
    """A model that accelerate spreads over the device's budget, host memory or disk."""
    import torch
    from transformers import AutoModelForCausalLM

    limits: dict[int | str, str]
    if device == "cpu":
        limits = {"cpu": budget}
    else:
        limits = {0: budget, "cpu": "0GiB" if disk else _HOST_ROOM}
    return AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.bfloat16,
        device_map="auto",
        max_memory=limits,
        offload_folder=str(scratch),
    )


def generator(model: Any, device: str, **options: object) -> Generate:
    """Greedy `generate` of a transformers model."""
    import torch

    def generate(ids: torch.Tensor, tokens: int) -> torch.Tensor:
        with torch.inference_mode():
            return model.generate(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                **options,
            )

    return generate


def reference_path(bench: Bench, shape: Shape) -> Path:
    """Where the resident model's tokens are kept for the others to compare with."""
    return bench.folder / f"reference-{bench.shape(shape).name}.json"


def run_resident(
    bench: Bench, shape: Shape, tokens: int, *, rounds: int = 1, pick: Pick = min
) -> Figures:
    """Run transformers with the whole model on the device; its tokens are the reference."""
    small = bench.shape(shape)
    machine.reset_gpu_peak()
    before = machine.reset_host_peak()
    start = time.perf_counter()
    model = from_pretrained(bench.checkpoint(shape), bench.device)
    load_s = time.perf_counter() - start
    ids = prompt(small.vocab)
    count = bench.tokens(tokens)
    timing = time_decoding(generator(model, bench.device), ids, count, rounds=rounds, pick=pick)
    peak, host = machine.gpu_peak_bytes(), machine.host_peak_bytes()
    reference = refer(model, ids, count)
    reference.save(reference_path(bench, shape))
    same = "reference" if reference.tokens == timing.tokens else "unlike itself"
    return Figures(
        timing.token_s,
        timing.first_token_s,
        (load_s,),
        seconds={"processor": timing.processor_s},
        moved_bytes=own_memory(bench, small),
        gpu_peak_bytes=peak,
        host_peak_bytes=host,
        host_growth_bytes=host - before,
        tokens=same,
    )


def run_compiled(bench: Bench, shape: Shape, tokens: int) -> Figures:
    """Run transformers with a static cache, which makes it compile and capture the step."""
    small = bench.shape(shape)
    machine.reset_gpu_peak()
    start = time.perf_counter()
    model = from_pretrained(bench.checkpoint(shape), bench.device)
    load_s = time.perf_counter() - start
    generate = generator(model, bench.device, cache_implementation="static")
    ids = prompt(small.vocab)
    count = bench.tokens(tokens)
    start = time.perf_counter()
    for warm in (count, 1):  # each length of cache is compiled for
        generate(ids, warm)
    machine.synchronize()
    compile_s = time.perf_counter() - start
    timing = time_decoding(generate, ids, count, warm=False)
    reference = Reference.load(reference_path(bench, shape))
    return Figures(
        timing.token_s,
        timing.first_token_s,
        (load_s,),
        seconds={"warm-up": compile_s},
        moved_bytes=own_memory(bench, small),
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=machine.host_peak_bytes(),
        tokens=compare(generate, ids, timing.tokens, reference, restarts=0),
    )


def run_accelerate(
    bench: Bench,
    shape: Shape,
    tokens: int,
    budget: str,
    *,
    disk: bool,
    rounds: int = 1,
    pick: Pick = min,
) -> Figures:
    """Run a device map with a budget for the device."""
    small = bench.shape(shape)
    scratch = bench.folder / "accelerate"
    machine.reset_gpu_peak()
    before = machine.reset_host_peak()
    start = time.perf_counter()
    model = offloaded(
        bench.checkpoint(shape), bench.device, _toy_budget(bench, budget), scratch, disk=disk
    )
    load_s = time.perf_counter() - start
    generate = generator(model, bench.device)
    ids = prompt(small.vocab)
    count = max(3, bench.tokens(tokens))
    timing = time_decoding(generate, ids, count, rounds=rounds, pick=pick)
    reference = Reference.load(reference_path(bench, shape))
    host = machine.host_peak_bytes()
    same = compare(generate, ids, timing.tokens, reference, restarts=0)
    shutil.rmtree(scratch, ignore_errors=True)
    return Figures(
        timing.token_s,
        timing.first_token_s,
        (load_s,),
        seconds={"processor": timing.processor_s},
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=host,
        host_growth_bytes=host - before,
        tokens=same,
        note=_places(model.hf_device_map.values()),
    )


def run_airllm(bench: Bench, shape: Shape) -> Figures:
    """Run AirLLM, which first splits the checkpoint into a copy of its own."""
    if importlib.util.find_spec("airllm") is None:
        raise RuntimeError("AirLLM is not installed (put it on PYTHONPATH to compare)")
    from airllm import AutoModel

    scratch = bench.folder / "airllm"
    ids = prompt(bench.shape(shape).vocab)
    machine.reset_gpu_peak()
    try:
        start = time.perf_counter()
        model = AutoModel.from_pretrained(
            str(bench.checkpoint(shape)), layer_shards_saving_path=str(scratch)
        )
        load_s = time.perf_counter() - start
        generate = generator(model, bench.device)
        timing = time_decoding(generate, ids, 3, warm=False)
        reference = Reference.load(reference_path(bench, shape))
        same = compare(generate, ids, timing.tokens, reference, restarts=0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Figures(
        timing.token_s,
        timing.first_token_s,
        (load_s,),
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=machine.host_peak_bytes(),
        tokens=same,
        note="the load splits the checkpoint into a second copy",
    )


def own_memory(bench: Bench, shape: Shape) -> dict[Any, float]:
    """What a token of a resident model reads from its device's own memory."""
    wire = "processor-memory" if bench.device == "cpu" else "gpu-memory"
    return {wire: shape.read_per_token_bytes}


def _toy_budget(bench: Bench, budget: str) -> str:
    return "400KiB" if bench.tiny else budget


def _places(places: Iterable[object]) -> str:
    found = [str(place) for place in places]
    return ", ".join(f"{found.count(place)} modules on {place}" for place in sorted(set(found)))
