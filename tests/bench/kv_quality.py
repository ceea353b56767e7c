"""What quantized cold pages cost a model: KL, perplexity and size, for group sizes and codecs.

    python tests/bench/kv_quality.py
    python tests/bench/kv_quality.py int4 4-64-64

A name is a codec's id, or bits-tokens-channels of its groups; ``+`` at the end leaves the first
page, which holds what every token looks at, in full precision.
SmolLM2-135M-Instruct in float32 over Python's language reference; pages of 64 tokens, all but the
last 64 tokens cold.
"""

from __future__ import annotations

import sys
from pathlib import Path

import machine
import torch
from table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the harness, which the tests have too

from ollm_widgets import RuntimeConfig, RuntimeLoader
from ollm_widgets.kv.codecs import PageCodec, PageShape, QuantizedCodec, codec_named
from tests.kv.codecs.quality import PAGE_TOKENS, TeacherForced, english_ids

CONTEXT_TOKENS, POSITIONS, WINDOWS = 1024, 512, 4
# A layer of Llama-3.1-8B.
_SIZED = PageShape(1, 8, PAGE_TOKENS, 128, 128, torch.bfloat16)
_IDS = ["int8", "int8+", "int4", "int4+"]
_GROUPS = ["4-16-16", "4-32-32", "4-32-32+", "4-64-32", "4-64-64", "4-64-64+", "8-32-32", "8-64-32"]


def named(name: str) -> PageCodec:
    """A codec by its id, or by its numbers."""
    if "-" not in name:
        return codec_named(name)
    bits, tokens, channels = (int(part) for part in name.split("-"))
    if bits not in (4, 8):
        raise ValueError(f"{name}: 4 or 8 bits, not {bits}")
    return QuantizedCodec(bits, key_group_tokens=tokens, value_group_channels=channels)


def main(names: list[str]) -> None:
    """Print the table."""
    config = RuntimeConfig("smollm2-135m", dtype="float32")
    table = Table(
        "codec", "of full", "KL mean", "median", "p99", "max", "perplexity", "same best", ""
    )
    with RuntimeLoader().load(config) as runtime:
        texts = english_ids(runtime.tokenizer, CONTEXT_TOKENS + POSITIONS, WINDOWS)
        forced = TeacherForced(runtime.model, texts, CONTEXT_TOKENS)
        for name in names:
            codec = named(name.removesuffix("+"))
            first = PAGE_TOKENS if name.endswith("+") else 0
            drift = forced.drift(codec, exact_tokens=first)
            table.add(
                name,
                f"{codec.encoded_bytes(_SIZED) / _SIZED.raw_bytes:.3f}",
                f"{drift.kl.mean():.5f}",
                f"{drift.kl.median():.5f}",
                f"{drift.kl.quantile(0.99):.4f}",
                f"{drift.kl.max():.3f}",
                f"{100 * drift.perplexity_change:+.2f} %",
                f"{100 * drift.same_best:.1f} %",
                "first page exact" if first else "",
            )
            exact_perplexity = drift.exact_perplexity
    print(machine.describe())
    print(f"{len(drift.kl)} positions, exact perplexity {exact_perplexity:.2f}")
    print(table)


if __name__ == "__main__":
    main(sys.argv[1:] or _IDS + _GROUPS)
