"""What a prompt costs: arithmetic, attention, and one pass of all weights over their wires."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.step import StepWork, launch_s_of, seconds_of
from ollm_widgets.planning.speed.work import (
    TOKEN_CALLS,
    TOKEN_KERNELS,
    layer_kernels,
    prompt_layer_calls,
    streamed_bytes,
)
from ollm_widgets.planning.weights import ITEM_BYTES, WeightSizes, attention_parameters

# What flash attention reaches of the rate of a large matrix product: 0.55 to 0.65 of it in the
# paper (Shah et al. 2024, FlashAttention-3, table 1), less of short prompts.
_ATTENTION_SHARE = 0.55
# Elements of a row that the small operations of a layer read and write: norms and residual sums
# in units of the hidden size, the rotary embedding in units of queries and keys, what attention
# takes and gives in units of queries, and gate, up and their product in units of their width.
_HIDDEN_PASSES, _ROTARY_PASSES, _QUERY_PASSES, _WIDTH_PASSES = 40, 15, 4, 5
# Python's work around a request, in calls: settings are filled in and looked at, and the threads
# hand it over. It took 8 ms where a call took 6.8 us, and 12 ms where it took 10.3 us.
_REQUEST_CALLS = 1150

PromptBound = Literal["computing", "calling", "wire", "reading"]


@dataclass(frozen=True, slots=True)
class PromptWork:
    """What a prompt does under a placement, up to its first token.

    Parameters
    ----------
    operations
        Float operations of matrix products: two a parameter and token (Kaplan et al. 2020,
        section 2.1).
    attention_operations
        Float operations of attention: four an element of a query and a token that it sees.
    weight_bytes
        Weights that the matrix products read, anew for each chunk of the prompt.
    pass_work
        All the rest: what the small operations read, what crosses the wires once, and the calls.
    kept_share
        Share of the layers that stay where they run. While a prompt is in these, what comes for
        the others soon waits for a free slot; a captured step is through with them in no time.
    """

    operations: int
    attention_operations: int
    weight_bytes: int
    pass_work: StepWork
    kept_share: float = 0.0


@dataclass(frozen=True, slots=True)
class PromptSeconds:
    """Seconds of all that goes on at the same time while a prompt is read; the longest counts.

    Parameters
    ----------
    products, attention, beside
        Matrix products, attention and all the rest of computing, one after the other.
    calling
        As in `StepSeconds`.
    wire, reading
        The same, and what they wait for while layers run that stay where they are; 0 where
        nothing comes that way.
    asking
        Before any of it begins.
    """

    products: float
    attention: float
    beside: float
    calling: float
    wire: float
    reading: float
    asking: float = 0.0

    @property
    def bound(self) -> PromptBound:
        """What takes longest."""
        spans: dict[PromptBound, float] = {
            "reading": self.reading,
            "wire": self.wire,
            "calling": self.calling,
            "computing": self.products + self.attention + self.beside,
        }
        return max(spans, key=lambda each: spans[each])

    @property
    def total(self) -> float:
        """Seconds until the first token."""
        computing = self.products + self.attention + self.beside
        return self.asking + max(computing, self.calling, self.wire, self.reading)


def prompt_work(
    sizes: WeightSizes,
    shape: ModelShape | None,
    dtype: DType,
    run: PlannedRun,
    prompt_tokens: int,
    *,
    history_tokens: int = 0,
    window_tokens: int | None = None,
    cold_kv_wire_bytes: int = 0,
    cold_kv_disk_bytes: int = 0,
    page_cached: bool = False,
    calls_beside: int = TOKEN_CALLS,
) -> PromptWork:
    """Say what a prompt of `prompt_tokens` does behind `history_tokens` that are known already.

    It passes each layer in chunks, so that layers cross their wires once, and all experts with
    them; each chunk reads the weights again from the memory of the device that computes, and is
    called for by Python, as prompts are never replayed. Logits are made for its last token.

    Parameters
    ----------
    window_tokens
        Tokens that the KV cache keeps, None for all.
    cold_kv_wire_bytes, cold_kv_disk_bytes, page_cached, calls_beside
        As `step_work` takes them.
    """
    rows = run.streaming.prefill_chunk_tokens or prompt_tokens
    chunks = max(-(-prompt_tokens // max(rows, 1)), 1)
    moved = streamed_bytes(sizes, run, whole_experts=_needs_all(sizes, run, prompt_tokens))
    experts_bytes = sum(sizes.expert_bytes)
    used_share = 1 - (1 - sizes.active_share) ** min(rows, prompt_tokens)
    layers_bytes = sizes.layers_bytes - round(experts_bytes * (1 - used_share))
    idle_bytes = round(experts_bytes * (1 - sizes.active_share))
    head_bytes = max(sizes.read_per_token_bytes - (sizes.layers_bytes - idle_bytes), 0)
    beside_bytes = head_bytes + prompt_tokens * _row_bytes(sizes, shape, dtype)
    on_cores = not run.on_accelerator
    pairs = _attended(shape, prompt_tokens, history_tokens, window_tokens)
    query = shape.attention_heads * shape.head_dim if shape is not None else 0
    kept = run.placement.accelerator_layers if run.on_accelerator else 0
    return PromptWork(
        operations=2 * sizes.parameters_per_token * prompt_tokens,
        attention_operations=4 * query * pairs,
        weight_bytes=chunks * layers_bytes,
        pass_work=StepWork(
            read_bytes=beside_bytes,
            wire_bytes=moved.to_device + cold_kv_wire_bytes,
            unpacked_bytes=moved.decoded,
            disk_bytes=cold_kv_disk_bytes + (0 if page_cached else moved.from_files),
            page_cache_bytes=moved.from_files if page_cached else 0,
            launched=chunks * prompt_layer_calls(sizes) + calls_beside,
            replayed=0 if on_cores else chunks * layer_kernels(sizes) + TOKEN_KERNELS,
            on_cores=on_cores,
        ),
        kept_share=kept / max(len(sizes.layer_bytes), 1),
    )


def prompt_seconds(work: PromptWork, speeds: Bandwidth) -> PromptSeconds:
    """Return what each part of a prompt takes, in seconds."""
    beside = seconds_of(work.pass_work, speeds)
    products = max(
        work.operations / speeds.flops_per_s, work.weight_bytes / speeds.read_bytes_per_s
    )
    attention = work.attention_operations / (_ATTENTION_SHARE * speeds.flops_per_s)
    computing = products + attention + beside.computing
    resting = work.kept_share * max(computing, beside.calling)
    return PromptSeconds(
        products=products,
        attention=attention,
        beside=beside.computing,
        calling=beside.calling,
        wire=beside.wire + resting if beside.wire else 0.0,
        reading=beside.reading + resting if beside.reading else 0.0,
        asking=_REQUEST_CALLS * launch_s_of(speeds),
    )


def _needs_all(sizes: WeightSizes, run: PlannedRun, tokens: int) -> bool:
    """Whether a prompt may choose more experts than there is room for, so that all of them come."""
    return tokens * sizes.active_experts > run.streaming.expert_slots


def _row_bytes(sizes: WeightSizes, shape: ModelShape | None, dtype: DType) -> int:
    """Bytes that small operations read and write for one token, in all layers."""
    if shape is None:
        return 0
    query = shape.attention_heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    layers = len(sizes.layer_bytes)
    in_blocks = sizes.parameters_per_token - layers * attention_parameters(shape)
    widths = max(in_blocks, 0) // (3 * max(shape.hidden_size, 1))
    each = _HIDDEN_PASSES * shape.hidden_size + _ROTARY_PASSES * (query + keys)
    elements = layers * (each + _QUERY_PASSES * query) + _WIDTH_PASSES * widths
    return elements * ITEM_BYTES[dtype]


def _attended(
    shape: ModelShape | None, prompt_tokens: int, history_tokens: int, window_tokens: int | None
) -> int:
    """Pairs of a token and one that it sees, in all layers; linear attention has none."""
    if shape is None:
        return 0
    full = _seen(prompt_tokens, history_tokens, window_tokens)
    if shape.layer_types is None:
        windows = [each for each in (window_tokens, shape.sliding_window) if each is not None]
        own = min(windows) if windows else None
        return shape.layers * _seen(prompt_tokens, history_tokens, own)
    slides = _seen(prompt_tokens, history_tokens, shape.sliding_window)
    pairs = {"full_attention": full, "linear_attention": 0}
    return sum(pairs.get(each, slides) for each in shape.layer_types)


def _seen(prompt_tokens: int, history_tokens: int, window: int | None) -> int:
    """Tokens that each of the prompt sees, itself among them, added up."""
    last = history_tokens + prompt_tokens
    if window is None:
        return _sum_to(last) - _sum_to(history_tokens)
    return _sum_within(last, window) - _sum_within(history_tokens, window)


def _sum_within(tokens: int, window: int) -> int:
    growing = min(tokens, window)
    return _sum_to(growing) + (tokens - growing) * window


def _sum_to(tokens: int) -> int:
    return math.comb(tokens + 1, 2)
