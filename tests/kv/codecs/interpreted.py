"""Compare the kernel with torch under Triton's interpreter; `test_kernels` runs this.

The interpreter cuts bfloat16 off where a GPU rounds, so other dtypes stand for it here.
"""

from __future__ import annotations

import itertools

import torch

from ollm_widgets.kv.codecs import kernels
from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.codecs.quantized import QuantizedCodec
from ollm_widgets.kv.codecs.sections import Bits

# pages, batch, heads, tokens, key width, value width
SHAPES = (
    (1, 1, 1, 1, 1, 1),
    (3, 1, 2, 64, 16, 16),
    (2, 2, 3, 37, 15, 9),
    (2, 1, 1, 130, 80, 600),
)


def check(shape: tuple[int, ...], bits: Bits, dtype: torch.dtype, *, whole: bool) -> None:
    """Pages in a row, with others' bytes between them, into parts of a larger tensor."""
    torch.manual_seed(0)
    codec = QuantizedCodec(bits)
    pages, batch, heads, tokens, *widths = shape
    states = [torch.randn(pages, batch, heads, tokens, width).to(dtype) * 3 for width in widths]
    page = PageShape.of(states[0], states[1])
    data = torch.zeros(pages, codec.encoded_bytes(page) + 48, dtype=torch.uint8)[:, 16:-32]
    codec.encode(states[0], states[1], data)
    wanted = [torch.empty_like(each) for each in states]
    codec.decode(data, page, *wanted)
    around = [
        torch.full((batch, heads, pages * tokens + 5, width), 7.0, dtype=dtype) for width in widths
    ]
    outs = [each[:, :, 2:-3].unflatten(2, (pages, tokens)).movedim(2, 0) for each in around]
    if whole:
        codec._decode_by(kernels, page, [data], *([each] for each in outs))
    else:
        # Each page as if it were of a layer of its own, the last one first.
        layers = [slice(number, number + 1) for number in reversed(range(pages))]
        codec._decode_by(
            kernels,
            page,
            [data[layer] for layer in layers],
            *([each[layer] for layer in layers] for each in outs),
        )
    for ours, theirs, edges in zip(outs, wanted, around, strict=True):
        assert torch.equal(ours, theirs), (shape, bits, dtype)
        assert bool((edges[:, :, :2] == 7).all())
        assert bool((edges[:, :, -3:] == 7).all())


if __name__ == "__main__":
    bits: tuple[Bits, ...] = (4, 8)
    for case in itertools.product(SHAPES, bits, (torch.float32, torch.float16)):
        check(*case, whole=True)
        check(*case, whole=False)
    print("right")
