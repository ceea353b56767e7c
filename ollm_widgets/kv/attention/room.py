"""How many of the newest tokens stay on the device, and whether the rest fits host memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ollm_widgets.kv.attention.host_pages import chunk_pages, host_bytes
from ollm_widgets.kv.attention.staging import SLOTS
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.codecs.page import PageShape

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

PAGE_TOKENS = 64
# The page that is written, one that is free for the tokens after it while the oldest is on its
# way, and what a rewind may bring back.
_LEAST_RING_PAGES = 4
_FREE_PAGES = 2


@dataclass(frozen=True, slots=True)
class KVTiers:
    """What a paged cache may take, and how its cold pages are encoded.

    Parameters
    ----------
    budget
        Bytes on the accelerator, what is in flight included, and in host memory.
    codec
        ``full``, ``int8`` or ``int4``.
    page_tokens
        Of a page, a power of two.
    """

    budget: KVBudget = field(default_factory=KVBudget)
    codec: str = "full"
    page_tokens: int = PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class PageRoom:
    """The room of a cache, in pages of some tokens of each sequence.

    Parameters
    ----------
    pages
        Those of the whole capacity.
    ring_pages
        How many of the newest are hot in each layer.
    page_bytes
        Of an encoded page of one layer.
    page_tokens
        Of a page.
    staging_bytes
        Of a slot that cold pages pass through; 0 where none are cold.
    """

    pages: int
    ring_pages: int
    page_bytes: int
    page_tokens: int = PAGE_TOKENS
    staging_bytes: int = 0

    @property
    def all_hot(self) -> bool:
        """Whether no page ever leaves the device."""
        return self.ring_pages >= self.pages

    def cold_after(self, tokens: int, cold: int) -> int:
        """Pages that must be cold when there are `tokens`, of which `cold` pages are already."""
        if self.all_hot:
            return 0
        over = tokens - (self.ring_pages - _FREE_PAGES) * self.page_tokens
        return max(cold, -(-over // self.page_tokens))

    def is_full(self, tokens: int, cold: int) -> bool:
        """Whether the oldest hot page should leave before there are more than `tokens`."""
        return not self.all_hot and tokens > (cold + self.ring_pages - 1) * self.page_tokens

    def has_slot(self, tokens: int, cold: int) -> bool:
        """Whether `tokens` fit with `cold` pages gone."""
        return self.all_hot or tokens <= (cold + self.ring_pages) * self.page_tokens


def room_for(
    shape: PageShape, layers: int, capacity_tokens: int, tiers: KVTiers, *, staged: bool
) -> PageRoom | str:
    """Divide a capacity between the tiers.

    Parameters
    ----------
    shape
        Of a page of one layer.
    layers
        How many keep every token.
    capacity_tokens
        Of each sequence.
    staged
        Whether cold pages pass through slots on the device.

    Returns
    -------
    PageRoom or str
        Or the reason why memory does not hold it.
    """
    pages = -(-capacity_tokens // shape.tokens)
    page_bytes = codec_named(tiers.codec).encoded_bytes(shape)
    budget = tiers.budget.accelerator_bytes
    room = PageRoom(pages, pages, page_bytes, shape.tokens)
    if budget is None or pages * layers * shape.raw_bytes <= budget or pages <= _LEAST_RING_PAGES:
        return room
    staging_bytes = chunk_pages(page_bytes, pages) * page_bytes if staged else 0
    # Prompts put a layer's tokens together once more.
    in_flight = SLOTS * staging_bytes + pages * shape.raw_bytes
    ring_pages = (budget - in_flight) // (layers * shape.raw_bytes)
    if ring_pages < _LEAST_RING_PAGES:
        needed = in_flight + _LEAST_RING_PAGES * layers * shape.raw_bytes
        return (
            f"{capacity_tokens} tokens need {needed / 2**20:.0f} MiB on the accelerator, one layer "
            f"in flight included; the KV cache may take {budget / 2**20:.0f} MiB"
        )
    ring_pages = min(ring_pages, pages - 1)
    cold_bytes = layers * host_bytes(page_bytes, pages, pages - ring_pages + _FREE_PAGES)
    limit = tiers.budget.host_bytes
    if limit is not None and cold_bytes > limit:
        return (
            f"{cold_bytes / 2**20:.0f} MiB of cold pages do not fit the {limit / 2**20:.0f} MiB of "
            "host memory that the KV cache may take"
        )
    return replace(room, ring_pages=ring_pages, staging_bytes=staging_bytes)


def page_shape(
    config: PretrainedConfig, batch: int, dtype: torch.dtype, page_tokens: int = PAGE_TOKENS
) -> PageShape | None:
    """The page of a layer of a model, by its config; None where the config does not say."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    hidden = getattr(text, "hidden_size", None)
    if not heads or not hidden:
        return None
    if getattr(text, "kv_lora_rank", None):
        key_width = text.qk_nope_head_dim + text.qk_rope_head_dim
        return PageShape(batch, heads, page_tokens, key_width, text.v_head_dim, dtype)
    width = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return PageShape(batch, kv_heads, page_tokens, width, width, dtype)
