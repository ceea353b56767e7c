"""Decoding behind a long prompt, keys and values on the GPU or in host memory.

    python tests/bench/kv_gpu.py                    # everything
    python tests/bench/kv_gpu.py ours-host --tokens 9
    python tests/bench/kv_gpu.py --tiny             # shows that it works, measures nothing

Llama-3.1-8B shape, random bfloat16 weights made on the GPU, batch 1, a prompt of 32,768 tokens.
A row is the time of a step behind it, all tokens given; `error` is how far its logits are from
those of transformers' own cache, as a share of their norm; random weights enlarge rounding, and
what quantization does to text this cannot tell. `floor` is what the wire from host memory needs
for all keys and values in full precision, as measured in this run; `own floor` for the cold ones
as they are.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import machine
import torch
from shapes import LLAMA_8B, Shape
from table import Goal, Table, gigabytes, number, times

from ollm_widgets.kv.attention.room import KVTiers, page_shape
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.weights.steps.capture import CapturedSteps

_PROMPT_TOKENS = 32768
_COPY_BYTES = 2**30
_BUDGET_BYTES = 512 * 2**20
_TINY = Shape("tiny", 512, 256, 512, 4, 8, 2, 64)


@dataclass
class Row:
    """What came of one way to keep keys and values."""

    title: str
    prompt_s: float | None = None
    token_s: float | None = None
    first_step_s: float | None = None
    gpu_peak_bytes: int | None = None
    host_bytes: int = 0
    moved_bytes: float = 0
    note: str = ""
    logits: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """The model, and the tokens that every row is given: ``[1, prompt + steps]``."""

    model: Any
    shape: Shape
    ids: torch.Tensor
    prompt: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.ids.device


def make_model(shape: Shape, device: str) -> Any:
    """A model of random weights, made where it computes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**shape.config())).eval()
    torch.set_default_dtype(torch.float32)
    return model


def run(row: Row, task: Task, prefill: Callable[[], Any], step: Callable[[Any], Any]) -> None:
    """Time the prompt and each step; the median of the later ones counts."""
    machine.synchronize()
    start = time.perf_counter()
    row.logits.append(prefill()[0].float().cpu())
    machine.synchronize()
    row.prompt_s = time.perf_counter() - start
    seconds = []
    for token in range(task.prompt, task.ids.shape[1]):
        start = time.perf_counter()
        logits = step(task.ids[:, token : token + 1])
        machine.synchronize()
        seconds.append(time.perf_counter() - start)
        row.logits.append(logits[0].float().cpu())
    row.first_step_s = seconds[0]
    row.token_s = statistics.median(seconds[2:] or seconds)


def transformers_cache(row: Row, task: Task, *, offloading: bool) -> None:
    """Transformers' dynamic cache, resident or offloaded."""
    from transformers import DynamicCache

    options = {"offloading": True} if offloading else {}
    cache = DynamicCache(config=task.model.config, **options)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        out = task.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1]

    run(row, task, lambda: forward(task.ids[:, : task.prompt]), forward)


def ours(row: Row, task: Task, *, codec: str | None = None, stock: bool = False) -> None:
    """Our captured steps: all resident, or with a small budget and a codec for what is cold."""
    tiers = None
    if codec is not None:
        tiers = KVTiers(KVBudget(_BUDGET_BYTES, None), codec)
    tokens = task.ids.shape[1]
    steps = CapturedSteps(task.model, task.device, planned_tokens=tokens, fuse=True, tiers=tiers)
    if stock:
        steps._by_kernel = False
    try:
        steps.begin(1, tokens)
        prompt = task.ids[:, : task.prompt]
        run(row, task, lambda: steps.prefill(prompt, torch.ones_like(prompt)), steps.step)
        stats = steps.cache.stats() if steps.cache is not None else None
        row.host_bytes = stats.host_bytes if stats else 0
        row.note = steps.refusal or steps.attention_refusal
        page = page_shape(task.model.config, 1, task.model.dtype)
        if stats and stats.host_bytes and page and codec:
            cold_bytes = task.shape.kv_bytes(stats.tokens - stats.hot_tokens)
            row.moved_bytes = cold_bytes * codec_named(codec).encoded_bytes(page) / page.raw_bytes
            row.note += f"{stats.hot_tokens} hot of {stats.tokens}"
    finally:
        steps.close()


ROWS: dict[str, tuple[str, Callable[[Row, Task], None]]] = {
    "transformers": (
        "transformers, DynamicCache",
        lambda row, task: transformers_cache(row, task, offloading=False),
    ),
    "offloaded": (
        "transformers, offloaded cache",
        lambda row, task: transformers_cache(row, task, offloading=True),
    ),
    "ours-stock": (
        "ours, resident, transformers' attention",
        lambda row, task: ours(row, task, stock=True),
    ),
    "ours": ("ours, resident", ours),
    "ours-host": ("ours, host memory", lambda row, task: ours(row, task, codec="full")),
    "ours-int8": ("ours, host memory, int8", lambda row, task: ours(row, task, codec="int8")),
    "ours-int4": ("ours, host memory, int4", lambda row, task: ours(row, task, codec="int4")),
}


def wire_speed() -> float:
    """Bytes per second that the copy engine moves from locked host memory."""
    host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")

    def copied() -> float:
        machine.synchronize()
        start = time.perf_counter()
        there.copy_(host, non_blocking=True)
        machine.synchronize()
        return _COPY_BYTES / (time.perf_counter() - start)

    return max(copied() for _ in range(5))


def table(rows: dict[str, Row], floor_s: float | None, task: Task) -> str:
    """All rows beside the goals."""
    made = Table(
        "", "s/token", "x floor", "x own floor", "faster than offloaded", "prompt s",
        "first step s", "GPU peak GB", "host GB", "error", "goals",
    )  # fmt: skip
    size = task.shape.kv_bytes(task.prompt)
    full, reference = rows.get("ours-host"), rows.get("transformers")
    offloaded, stock = rows.get("offloaded"), rows.get("ours-stock")
    for name, row in rows.items():
        goals = []
        if name == "ours-host":
            goals.append(Goal("floor", 1.1, "x floor").verdict(_ratio(row.token_s, floor_s)))
        if name in ("ours-int8", "ours-int4"):
            bound = 2.5 if name == "ours-int4" else 1.5
            faster = _ratio(full and full.token_s, row.token_s)
            goal = Goal("faster", bound, "x faster than full", at_least=True)
            goals.append(f"{goal.verdict(faster)} ({times(faster).strip()})")
        if name == "ours":
            faster = _ratio(stock and stock.token_s, row.token_s)
            goal = Goal("faster", 1.0, "x stock attention", at_least=True)
            goals.append(f"{goal.verdict(faster)} ({times(faster).strip()})")
        made.add(
            row.title,
            number(row.token_s, 5),
            times(_ratio(row.token_s, floor_s)),
            times(_ratio(row.token_s, (floor_s or 0) * row.moved_bytes / size)),
            times(_ratio(offloaded and offloaded.token_s, row.token_s)),
            number(row.prompt_s, 2),
            number(row.first_step_s, 2),
            gigabytes(row.gpu_peak_bytes),
            gigabytes(row.host_bytes or None),
            number(_error(row, reference), 4),
            "; ".join([*goals, row.note]),
        )
    lines = [machine.describe()]
    if floor_s is not None:
        lines.append(f"{size / 1e9:.2f} GB of keys and values, wire floor {floor_s:.4f} s")
    return "\n".join([*lines, "", str(made)])


def _ratio(figure: float | None, other: float | None) -> float | None:
    return figure / other if figure and other else None


def _error(row: Row, reference: Row | None) -> float | None:
    if reference is None or row is reference or not row.logits:
        return None
    pairs = zip(row.logits, reference.logits, strict=False)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def _rows(options: argparse.Namespace, task: Task) -> Iterator[tuple[str, Row]]:
    for name, (title, measure) in ROWS.items():
        if options.rows and name not in options.rows:
            continue
        row = Row(title)
        machine.reset_gpu_peak()
        try:
            with torch.inference_mode():
                measure(row, task)
        except Exception as error:
            row.note = f"{type(error).__name__}: {error}"[:200]
        row.gpu_peak_bytes = machine.gpu_peak_bytes()
        gc.collect()
        machine.release_gpu()
        print(f"{title}: {number(row.token_s, 5)} s/token {row.note}", flush=True)
        yield name, row


def main() -> None:
    """Read the command line, run the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--tokens", type=int, default=12, help="steps behind the prompt")
    parser.add_argument("--prompt", type=int, default=0, help="tokens of the prompt")
    parser.add_argument("--tiny", action="store_true", help="a toy model and a short prompt")
    options = parser.parse_args()
    shape = _TINY if options.tiny else LLAMA_8B
    device = "cuda" if machine.has_gpu() else "cpu"
    prompt = options.prompt or (200 if options.tiny else _PROMPT_TOKENS)
    model = make_model(shape, device)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(2, shape.vocab, (1, prompt + options.tokens), generator=generator)
    task = Task(model, shape, ids.to(device), prompt)
    floor_s = shape.kv_bytes(prompt) / wire_speed() if machine.has_gpu() else None
    rows = dict(_rows(options, task))
    print(f"\n{table(rows, floor_s, task)}", flush=True)


if __name__ == "__main__":
    main()
