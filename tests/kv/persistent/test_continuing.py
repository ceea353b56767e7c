"""A conversation that goes on in another process is the one that never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.kv.persistent.continuing import CACHES, PROMPT, Continuation, empty_cache, release
from tests.kv.persistent.prefixes import continued, open_store, run, tiny

SLIDING = ("mistral", "gemma2", "gemma3_text", "gpt_oss")
MODELS = ("llama", *SLIDING, "qwen3_next", "deepseek_v3", "falcon", "falcon_h1", "lfm2")
TOP = Path(__file__).parents[3]


def save_all(stores: Path) -> dict[tuple[str, str], list[int]]:
    """Save every kind of cache of every model; gives what follows in that cache."""
    expected = {}
    for name in MODELS:
        model = tiny(name)
        for kind in CACHES:
            cache = empty_cache(model, kind, stores.parent)
            if cache is None:
                continue
            run(model, cache, PROMPT[:-1], 0)
            with open_store(stores / kind, name) as store:
                assert store.save(PROMPT[:-1], cache).is_complete
            expected[name, kind] = continued(model, cache, PROMPT, len(PROMPT) - 1)
            release(cache)
    return expected


def in_another_process(stores: Path) -> list[Continuation]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.kv.persistent.continuing", stores, *MODELS],
        cwd=TOP,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_another_process_continues_with_the_same_tokens_in_any_cache(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    expected = save_all(tmp_path / "stores")
    results = in_another_process(tmp_path / "stores")
    assert len(results) == len(expected) * len(CACHES)
    for result in results:
        name, kind, saved_as = result["model"], result["cache"], result["saved_as"]
        assert result["made"] == expected[name, kind], result
        # A cache that keeps every token cannot be made of one that has let go of some.
        let_go = kind == "fixed" and saved_as != "fixed" and name in SLIDING
        was_saved = (name, saved_as) in expected
        assert result["tokens"] == (len(PROMPT) - 1 if was_saved and not let_go else 0), result
