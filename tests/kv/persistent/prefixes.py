"""Tiny models, their caches, and stores for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from ollm_widgets.kv.persistent.fingerprint import Fingerprint
from ollm_widgets.kv.persistent.store import PrefixStore
from ollm_widgets.planning.kv_presets import KVLayout
from tests.models.architectures import ARCHITECTURES, GROUPED, HEADED, Architecture, build

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

LAYERS, HEADS, WIDTH = 3, 2, 8

# Layers with linear and full attention side by side, and states of another kind.
HYBRIDS = (
    Architecture(
        "falcon_h1",
        {
            **HEADED,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
        },
        "FalconH1ForCausalLM",
    ),
    Architecture(
        "lfm2",
        {**GROUPED, "block_multiple_of": 8, "layer_types": ["conv", "full_attention"]},
        "Lfm2ForCausalLM",
    ),
)


def fingerprint(model: str = "tiny", codec: str = "full", **fields: str) -> Fingerprint:
    known = {
        "weights": model,
        "config": "",
        "adapter": "",
        "dtype": "float32",
        "device": "cpu",
        "attention": "exact",
        "libraries": "5.0",
    }
    return Fingerprint(model=model, codec=codec, **(known | fields))


def open_store(
    root: Path,
    model: str = "tiny",
    *,
    codec: str = "full",
    layout: KVLayout = "segments",
    limit_bytes: int | None = None,
) -> PrefixStore:
    return PrefixStore.open(
        root, fingerprint(model, codec), layout=layout, codec=codec, limit_bytes=limit_bytes
    )


def ids_of(seed: int, tokens: int) -> list[int]:
    return torch.randint(3, 60, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def cache_of(ids: Sequence[int], layers: int = LAYERS) -> DynamicCache:
    """Keys and values that say which token they are of, after which others, in which layer."""
    cache = DynamicCache()
    before = torch.cumsum(torch.tensor(ids, dtype=torch.float64), 0)
    for layer in range(layers):
        states = torch.zeros(1, HEADS, len(ids), WIDTH)
        states += (before * (1 + layer)).sin()[None, None, :, None].float()
        states += torch.arange(WIDTH) + 100 * torch.arange(HEADS)[None, :, None, None]
        cache.update(states, -2 * states, layer)
    return cache


def same_contents(one: Cache, other: Cache) -> bool:
    return len(one.layers) == len(other.layers) and all(
        torch.equal(here.keys, there.keys) and torch.equal(here.values, there.values)
        for here, there in zip(one.layers, other.layers, strict=True)
    )


def restored(store: PrefixStore, ids: Sequence[int]) -> tuple[int, DynamicCache]:
    cache = DynamicCache()
    with store.match(ids) as match:
        tokens = store.restore(match, cache)
    return tokens, cache


def restores_rightly(store: PrefixStore, ids: Sequence[int]) -> int:
    """Tokens of `ids` that come back; an error if one of them is not as `cache_of` made it."""
    tokens, cache = restored(store, ids)
    if tokens:
        assert same_contents(cache, cache_of(ids[:tokens]))
    else:
        assert not any(layer.get_seq_length() for layer in cache.layers)
    return tokens


def tiny(model_type: str) -> PreTrainedModel:
    """A model in float32, the same in every process."""
    (architecture,) = (each for each in (*ARCHITECTURES, *HYBRIDS) if each.model_type == model_type)
    return build(architecture).float().eval()


def run(model: PreTrainedModel, cache: Cache, ids: Sequence[int], before: int) -> torch.Tensor:
    """Logits of the last token of `ids`, which follow `before` tokens in the cache."""
    positions = torch.arange(before, before + len(ids))[None]
    with torch.no_grad():
        made = model(
            torch.tensor([ids]), past_key_values=cache, position_ids=positions, use_cache=True
        )
    return made.logits[0, -1]


def continued(
    model: PreTrainedModel, cache: Cache, ids: Sequence[int], before: int, tokens: int = 6
) -> list[int]:
    """Greedy tokens after `ids`, the first `before` of which are in the cache."""
    made: list[int] = []
    new = list(ids[before:])
    for _ in range(tokens):
        made.append(int(run(model, cache, new, before).argmax()))
        before += len(new)
        new = made[-1:]
    return made
