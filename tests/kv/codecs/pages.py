"""Pages that the tests of the codecs share, and quantized bytes read without our code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from ollm_widgets.kv.codecs import PageShape

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """Some pages of one shape, from numbers of many sizes."""

    shape: PageShape
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def pages(self) -> int:
        return len(self.keys)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Pages ``[pages, batch, heads, tokens, width]``, any strides, widths that differ and are odd.

    Each channel has a magnitude and an offset of its own; some are constant.
    """
    shape = PageShape(
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        tokens=draw(st.one_of(st.integers(1, 9), st.integers(31, 33), st.integers(63, 70))),
        key_width=draw(st.one_of(st.integers(1, 9), st.integers(63, 66))),
        value_width=draw(st.one_of(st.integers(1, 9), st.integers(63, 66))),
        dtype=draw(st.sampled_from(DTYPES)),
    )
    pages = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    states = []
    for size in (shape.keys, shape.values):
        numbers = torch.randn(pages, *size, generator=generator)
        magnitude = 10.0 ** torch.randint(-6, 4, size[-1:], generator=generator)
        magnitude *= torch.rand(size[-1:], generator=generator) > 0.2
        offset = torch.randn(size[-1:], generator=generator) * draw(st.sampled_from((0.0, 300.0)))
        numbers = (numbers * magnitude + offset).to(shape.dtype)
        if draw(st.booleans()):  # as a cache has them: tokens after heads, in a longer buffer
            buffer = torch.full((*numbers.shape[:3], shape.tokens + 3, 2 * size[-1]), torch.nan)
            buffer = buffer.to(shape.dtype)
            view = buffer[..., 1 : 1 + shape.tokens, ::2]
            numbers = view.copy_(numbers)
        states.append(numbers)
    return Case(shape, *states)


def read_bytes(
    data: bytes, shape: PageShape, bits: int, tokens: int, channels: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers and scales of keys and values, by the words of `sections` and nothing else.

    Returns
    -------
    list
        For keys and for values: numbers ``[B, H, T, width]`` and the scale of each.
    """
    position = 0

    def section(size: tuple[int, ...], dtype: str) -> np.ndarray:
        nonlocal position
        position += -position % 16
        count = int(np.prod(size))
        array = np.frombuffer(data, dtype, count, position).reshape(size)
        position += array.nbytes
        return array

    rows = (shape.batch, shape.heads, shape.tokens)
    found = []
    for width, by_channel in ((shape.key_width, True), (shape.value_width, False)):
        codes = section((*rows, width if bits == 8 else -(-width // 2)), "u1")
        if bits == 4:
            both = np.stack([codes & 15, codes >> 4], -1)
            assert not both.reshape(*rows, -1)[..., width:].any()
            codes = both.reshape(*rows, -1)[..., :width]
        groups = (
            (*rows[:2], -(-shape.tokens // tokens), width)
            if by_channel
            else (*rows, -(-width // channels))
        )
        scales, zeros = (section(groups, "<f2").astype(np.float32) for _ in range(2))
        t, c = np.arange(shape.tokens)[:, None], np.arange(width)[None]
        index = (
            slice(None),
            slice(None),
            *((t // tokens, c) if by_channel else (t, c // channels)),
        )
        found.append((zeros[index] + codes * scales[index], scales[index]))
    assert position + -position % 16 == len(data)
    return found
