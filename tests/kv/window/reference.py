"""What a window must give: one pass without a cache, under a mask that says who sees what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from ollm_widgets.kv.window.cache import WindowCache
from tests.models.architectures import ARCHITECTURES, build

TOKENS = 36
PADDING = (0, 7, 2)
CASES = {each.model_type: each for each in ARCHITECTURES}


@cache
def tiny(model_type: str) -> Any:
    """A tiny model of an architecture, in float32."""
    return build(CASES[model_type]).float().eval()


def prompt(batch: int, tokens: int = TOKENS, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask ``[batch, tokens]``; all rows but the first are padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (batch, tokens), generator=generator)
    real = torch.ones_like(ids)
    for row in range(batch):
        real[row, : PADDING[row]] = 0
    return ids, real


def visible(real: torch.Tensor, window: int, sinks: int) -> torch.Tensor:
    """Who sees whom, bool ``[batch, 1, tokens, tokens]``, told token by token."""
    batch, tokens = real.shape
    seen = torch.zeros(batch, 1, tokens, tokens, dtype=torch.bool)
    for row in range(batch):
        kept = [key for key in range(tokens) if real[row, key]][:sinks]
        for query in range(tokens):
            for key in {*range(max(query - window + 1, 0), query + 1), *kept}:
                seen[row, 0, query, key] = bool(real[row, key]) and key <= query
    return seen


def positions(real: torch.Tensor) -> torch.Tensor:
    """Positions as `generate` counts them, padding left out."""
    return (real.long().cumsum(-1) - 1).clamp_min(0)


@torch.inference_mode()
def expected(model: Any, ids: torch.Tensor, real: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Logits ``[batch, tokens, vocab]`` of one pass in which `seen` is the mask of every layer."""
    found: torch.Tensor = model(
        ids, attention_mask=seen, position_ids=positions(real), use_cache=False
    ).logits
    return found


@contextmanager
def masked_layers(model: nn.Module, layers: Sequence[int], seen: torch.Tensor) -> Iterator[None]:
    """Let some layers alone see what `seen` lets them, and what their own mask does."""

    def narrow(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        own = kwargs["attention_mask"]
        both = seen if own is None else torch.minimum(seen, own)
        return args, {**kwargs, "attention_mask": both}

    hooks = [
        part.register_forward_pre_hook(narrow, with_kwargs=True)
        for part in model.modules()
        if getattr(part, "layer_idx", None) in layers and hasattr(part, "o_proj")
    ]
    assert len(hooks) == len(layers)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def feed(
    model: Any, past: WindowCache, ids: torch.Tensor, real: torch.Tensor, chunks: Sequence[int]
) -> torch.Tensor:
    """Logits of `ids` passed in chunks after what `past` has seen; `real` covers that too."""
    found = []
    done, offset = 0, real.shape[1] - ids.shape[1]
    for tokens in chunks:
        end = min(done + tokens, ids.shape[1])
        if end > done:
            until = real[:, : offset + end]
            found.append(
                model(
                    ids[:, done:end],
                    attention_mask=until,
                    position_ids=positions(until)[:, offset + done :],
                    past_key_values=past,
                    use_cache=True,
                ).logits
            )
        done = end
    assert done == ids.shape[1]
    return torch.cat(found, 1)


def assert_same(found: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor) -> None:
    """The same tokens everywhere but in the padding, by logits that differ by rounding alone."""
    told = real.bool()
    assert (found - wanted)[told].abs().max() <= 1e-4 * wanted[told].abs().max().clamp_min(1)
    assert found.argmax(-1)[told].equal(wanted.argmax(-1)[told])
