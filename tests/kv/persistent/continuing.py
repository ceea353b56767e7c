"""Another process that goes on where the caches of stores end: ``python -m ... ROOT MODEL ...``.

Prints a line of JSON for each store, model and kind of cache: how many tokens came back, and
those that follow.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.weights.steps.fixed_cache import fixed_cache
from tests.kv.persistent.prefixes import continued, ids_of, open_store, tiny

PROMPT = ids_of(1, 100)
CAPACITY = 128
CACHES = ("dynamic", "tiered", "fixed")


class Continuation(TypedDict):
    """What became of a saved cache."""

    saved_as: str
    model: str
    cache: str
    tokens: int
    made: list[int]


def empty_cache(model: PreTrainedModel, kind: str, folder: Path) -> Cache | None:
    """An empty cache of a kind; None where the model has none."""
    if kind == "dynamic":
        return DynamicCache(config=model.config)
    if kind == "tiered":
        budget = KVBudget(accelerator_bytes=20_000, host_bytes=10_000)
        return build_cache(model, "paged", budget=budget, folder=folder, page_tokens=16)
    cache = fixed_cache(model.config, CAPACITY, torch.device("cpu"))
    return None if isinstance(cache, str) else cache


def release(cache: Cache) -> None:
    """Give back what a cache holds beside memory."""
    close = getattr(cache, "close", None)
    if close is not None:
        close()


def main(root: str, *names: str) -> None:
    """Go on with every model, from every kind of cache to every other."""
    torch.set_num_threads(1)
    for name in names:
        model = tiny(name)
        for saved_as in CACHES:
            for kind in CACHES:
                with tempfile.TemporaryDirectory() as folder:
                    cache = empty_cache(model, kind, Path(folder))
                    if cache is None:
                        continue
                    with (
                        open_store(Path(root) / saved_as, name) as store,
                        store.match(PROMPT[:-1]) as match,
                    ):
                        tokens = store.restore(match, cache)
                    made = continued(model, cache, PROMPT, tokens)
                    release(cache)
                result = Continuation(
                    saved_as=saved_as, model=name, cache=kind, tokens=tokens, made=made
                )
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
