"""Fills tiered caches, each in a process of its own, and prints what memory each took, as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.kv.tiers.store import TierStore
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from ollm_widgets.planning.kv_presets import preset_of

MODEL = "a model"
BUDGET = 64 << 20
_Run = Callable[[int, int], KVStats]


def filling(strategy: str, folder: Path) -> _Run:
    """Keys and values straight into a cache: 24 layers of 1 KiB a token."""
    layers, chunk = 24, 2048

    def fill(budget: int, tokens: int) -> KVStats:
        preset = preset_of(strategy)
        codec = codec_named("full" if preset.codec == "full" else "int8")
        store = TierStore(
            preset, codec, KVBudget(budget), layers=layers, page_tokens=64, parent=folder
        )
        with TieredCache([None] * layers, list(range(layers)), store) as cache:
            states = torch.randn(1, 2, chunk, 64), torch.randn(1, 2, chunk, 64)
            for start in range(0, tokens, chunk):
                for index in range(layers):
                    keys, values = cache.update(*states, index)
                    assert keys.shape[2] == values.shape[2] == start + chunk
                    del keys, values
            one = states[0][:, :, :1], states[1][:, :, :1]
            for _ in range(3):
                for index in range(layers):
                    keys, _ = cache.update(*one, index)
            assert torch.equal(keys[:, :, tokens:], one[0].expand(-1, -1, 3, -1))
            if preset.lossless:
                assert torch.equal(keys[:, :, :chunk], states[0])
            cache.flush()
            return cache.stats()

    return fill


def generating(folder: Path) -> _Run:
    """A model whose cache takes 8 layers of 4 KiB a token."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=64,
            max_position_embeddings=8192,
        )
    ).eval()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None

    def generate(budget: int, tokens: int) -> KVStats:
        ids = torch.randint(0, 64, (1, tokens))
        with build_cache(
            model, "streamed-segmented", budget=KVBudget(budget), folder=folder
        ) as cache:
            model.generate(
                ids,
                past_key_values=cache,
                max_new_tokens=4,
                do_sample=False,
                prefill_chunk_size=512,
            )
            cache.flush()
            return cache.stats()

    return generate


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def growth(run: _Run, before: tuple[int, int], tokens: int) -> dict[str, int]:
    """What a run with the whole budget takes beyond a small one's peak."""
    run(*before)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    start = peak_bytes()
    stats = run(BUDGET, tokens)
    return {
        "growth": peak_bytes() - start,
        "held": stats.accelerator_bytes + stats.host_bytes,
        "disk": stats.disk_bytes,
    }


def measure(case: str, folder: Path) -> dict[str, int]:
    """403 MB of keys and values in a cache, six times the budget; 134 MB of a model, twice it."""
    if case == MODEL:
        return growth(generating(folder), (4 << 20, 1024), 4096)
    return growth(filling(case, folder), (8 << 20, 2048), 16384)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    for case in sys.argv[2:]:
        (root / case).mkdir()
        # Forked, so that each begins with the imports and with nothing of another's memory.
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            print(json.dumps([case, measure(case, root / case)]), flush=True)
            sys.exit()
