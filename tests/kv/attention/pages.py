"""A history of keys and values, its older pages encoded, as the kernels see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ollm_widgets.kv.codecs.page import PageCodec, PageShape


@dataclass(frozen=True, slots=True)
class History:
    """Keys and values ``[batch, heads, tokens, width]`` as attention should see them.

    The first pages are encoded, at the addresses of `table`; the other tokens are in a ring whose
    unused slots hold no numbers.
    """

    keys: torch.Tensor
    values: torch.Tensor
    ring_keys: torch.Tensor
    ring_values: torch.Tensor
    page: PageShape
    codec: PageCodec
    pages: torch.Tensor
    table: torch.Tensor
    position: torch.Tensor
    cold_pages: torch.Tensor


def encoded_history(
    codec: PageCodec,
    *,
    batch: int,
    heads: int,
    tokens: int,
    cold: int,
    widths: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    ring: int,
    page_tokens: int = 64,
) -> History:
    """Make one out of random numbers; on a CUDA device its pages are in locked host memory."""
    generator = torch.Generator(device=device).manual_seed(tokens)
    keys, values = (
        torch.randn(batch, heads, tokens, width, generator=generator, device=device).to(dtype)
        for width in widths
    )
    page = PageShape(batch, heads, page_tokens, *widths, dtype)
    size = codec.encoded_bytes(page)
    pages = torch.empty(max(cold, 1), size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for number in range(cold):
        span = slice(number * page_tokens, (number + 1) * page_tokens)
        codec.encode(keys[:, :, span], values[:, :, span], pages[number])
        codec.decode(pages[number], page, keys[:, :, span], values[:, :, span])
    rings = [
        states.new_full((batch, heads, ring, states.shape[-1]), torch.nan)
        for states in (keys, values)
    ]
    slots = torch.arange(cold * page_tokens, tokens, device=device) % ring
    for slot_states, states in zip(rings, (keys, values), strict=True):
        slot_states[:, :, slots] = states[:, :, cold * page_tokens :]
    return History(
        keys,
        values,
        rings[0],
        rings[1],
        page,
        codec,
        pages,
        torch.arange(max(cold, 1), device=device) * size + pages.data_ptr(),
        torch.tensor([tokens - 1], device=device),
        torch.tensor([cold], device=device),
    )
