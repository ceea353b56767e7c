from __future__ import annotations

import pytest
import torch

from ollm_widgets.kv.codecs import PageShape, codec_named

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["full", "int8", "int4"])
def test_pages_are_those_of_the_cpu_and_cross_encoded(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    codec = codec_named(name)
    keys, values = (torch.randn(5, 1, 4, 70, width).to(dtype) * 3 for width in (96, 65))
    shape = PageShape.of(keys, values)
    on_cpu = torch.empty(5, codec.encoded_bytes(shape), dtype=torch.uint8)
    codec.encode(keys, values, on_cpu)

    on_gpu = torch.empty_like(on_cpu, device="cuda")
    codec.encode(keys.cuda(), values.cuda(), on_gpu)
    crossed = torch.empty_like(on_cpu).pin_memory()
    codec.encode(keys.cuda(), values.cuda(), crossed)
    assert torch.equal(on_gpu.cpu(), crossed)
    # A code may differ where a number lies between two, as divisions do in their last bit: in
    # 4 bits that is 0.3 % of the bytes of 16-bit numbers. Neither is further off than the other.
    assert (crossed != on_cpu).float().mean() < 1e-2
    furthest = []
    for data in (on_cpu, crossed):
        decoded = torch.empty_like(keys), torch.empty_like(values)
        codec.decode(data, shape, *decoded)
        furthest.append(
            max(
                float((a.float() - b.float()).abs().max())
                for a, b in zip(decoded, (keys, values), strict=True)
            )
        )
    assert furthest[1] <= 1.01 * furthest[0]

    for data in (on_gpu, crossed):
        keys_out, values_out = torch.empty_like(keys).cuda(), torch.empty_like(values).cuda()
        codec.decode(data, shape, keys_out, values_out)
        wanted = torch.empty_like(keys), torch.empty_like(values)
        codec.decode(crossed, shape, *wanted)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(keys_out.cpu(), wanted[0], rtol=2 * eps, atol=1e-5)
        torch.testing.assert_close(values_out.cpu(), wanted[1], rtol=2 * eps, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["full", "int8", "int4"])
def test_layers_that_are_decoded_together_have_the_bits_of_the_cpu(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    codec = codec_named(name)
    states = [
        tuple(torch.randn(5, 1, 4, 70, width).to(dtype) * 3 for width in (96, 65))
        for _layer in range(3)
    ]
    shape = PageShape.of(*states[0])
    size = codec.encoded_bytes(shape)
    # As layers lie in records, and as their keys and values lie in a cache.
    records = torch.zeros(5, 3 * (size + 64), dtype=torch.uint8)
    data = [records[:, number * (size + 64) :][:, :size] for number in range(3)]
    for pages, layer in zip(data, states, strict=True):
        codec.encode(*layer, pages)
    kept = [[torch.empty(1, 4, 5 * 70 + 9, w, dtype=dtype).cuda() for w in (96, 65)] for _ in data]
    outs = [
        [each[:, :, 2:-7].unflatten(2, (5, 70)).movedim(2, 0) for each in layer] for layer in kept
    ]
    on_gpu = records.cuda()
    codec.decode_layers(
        [on_gpu[:, number * (size + 64) :][:, :size] for number in range(3)],
        shape,
        [keys for keys, _ in outs],
        [values for _, values in outs],
    )
    for pages, layer, layer_outs in zip(data, states, outs, strict=True):
        wanted = [torch.empty_like(each) for each in layer]
        codec.decode(pages, shape, *wanted)
        for found, own in zip(layer_outs, wanted, strict=True):
            assert torch.equal(found.cpu(), own)
