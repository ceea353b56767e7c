"""A process that keeps far more than its budget in a tiered cache grows by the budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ollm_widgets.planning.kv_presets import KV_PRESETS

TIERED = [preset.strategy_id for preset in KV_PRESETS if preset.uses_disk]
BUDGET = 64 << 20

# 16384 tokens of 24 layers, 1 KiB each: 403 MB of keys and values, six times the budget.
FILL = """
import json, resource, sys
import torch
from pathlib import Path
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.tiers.store import TierStore
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from ollm_widgets.planning.kv_presets import preset_of

torch.set_num_threads(1)
strategy, folder, layers, tokens, chunk = sys.argv[1], Path(sys.argv[2]), 24, 16384, 2048


def fill(budget, tokens):
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


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


fill(8 << 20, 2048)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
stats = fill(int(sys.argv[3]), tokens)
print(json.dumps({"growth": peak() - before, "held": stats.accelerator_bytes + stats.host_bytes,
                  "disk": stats.disk_bytes}))
"""


# 4096 tokens of 8 layers, 4 KiB each: 134 MB, twice the budget.
GENERATE = """
import json, sys
import torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache

torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=8,
    num_attention_heads=8, num_key_value_heads=8, head_dim=64, max_position_embeddings=8192,
)).eval()
model.generation_config.eos_token_id = None


def run(budget, tokens):
    ids = torch.randint(0, 64, (1, tokens))
    with build_cache(
        model, sys.argv[1], budget=KVBudget(budget), folder=Path(sys.argv[2])
    ) as cache:
        model.generate(
            ids, past_key_values=cache, max_new_tokens=4, do_sample=False, prefill_chunk_size=512
        )
        cache.flush()
        return cache.stats()


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


run(4 << 20, 1024)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
stats = run(int(sys.argv[3]), 4096)
print(json.dumps({"growth": peak() - before, "held": stats.accelerator_bytes + stats.host_bytes,
                  "disk": stats.disk_bytes}))
"""

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


@only_linux
@pytest.mark.parametrize("strategy", TIERED)
def test_a_cache_of_six_times_its_budget_grows_by_the_budget(strategy: str, tmp_path: Path) -> None:
    figures = run_alone(FILL, strategy, tmp_path)
    assert figures["held"] <= BUDGET
    assert figures["growth"] <= 1.2 * BUDGET
    assert figures["disk"] > BUDGET
    assert not list(tmp_path.iterdir())


@only_linux
def test_a_model_whose_cache_is_twice_its_budget_grows_by_the_budget(tmp_path: Path) -> None:
    figures = run_alone(GENERATE, "streamed-segmented", tmp_path)
    assert figures["held"] <= BUDGET
    assert figures["growth"] <= 1.2 * BUDGET
    assert figures["disk"] > BUDGET


def run_alone(script: str, strategy: str, folder: Path) -> dict[str, int]:
    """Run a script in a process of its own; what it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", script, strategy, str(folder), str(BUDGET)],
        capture_output=True,
        text=True,
        check=False,
        # So that the C library gives what the model computes with back, as large as it comes.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures
