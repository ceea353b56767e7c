"""Compare the kernels with torch under Triton's interpreter; `test_kernels` runs this.

The interpreter multiplies no bfloat16 matrices, so other dtypes stand for it here.
"""

from __future__ import annotations

import itertools

import torch

from ollm_widgets.kv.attention.launching import ColdPart, SplitDecode, Tuning
from ollm_widgets.kv.attention.plain import attend
from ollm_widgets.kv.attention.writing import write_token
from ollm_widgets.kv.codecs import codec_named
from tests.kv.attention.pages import encoded_history

CPU = torch.device("cpu")
# batch, heads, group, key width, value width, page, ring, tokens, cold, masked
CASES = (
    (1, 2, 2, 8, 8, 16, 64, 50, 0, False),
    (2, 2, 2, 16, 16, 16, 64, 100, 3, True),
    (2, 1, 1, 12, 6, 16, 64, 100, 3, False),
    (1, 1, 7, 80, 80, 64, 256, 400, 3, False),
    (1, 2, 4, 15, 9, 64, 128, 300, 3, False),
)
NOISE = {torch.float32: 1e-5, torch.float16: 2e-3}


def check(case: tuple[int, ...], codec: str, dtype: torch.dtype, window: int | None) -> None:
    """One query against a history whose middle is read in two parts."""
    batch, heads, group, key, value, page, ring, tokens, cold, masked = case
    history = encoded_history(
        codec_named(codec),
        batch=batch,
        heads=heads,
        tokens=tokens,
        cold=cold,
        widths=(key, value),
        dtype=dtype,
        device=CPU,
        ring=ring,
        page_tokens=page,
    )
    query = torch.randn(batch, heads * group, 1, key).to(dtype)
    seen = torch.ones(batch, 1, 1, tokens + 5, dtype=torch.bool)
    if masked:
        for row in range(batch):
            seen[row, ..., : 3 * row + 1] = False
    if window is not None:
        seen[..., : tokens - window] = False
    split = SplitDecode(
        query,
        heads,
        value,
        history.position,
        cold_pages=history.cold_pages,
        scale=0.3,
        mask=seen if masked or window is not None else None,
        window=window,
        cold_parts=2,
        tuning=Tuning(cold_splits=2),
    )
    split.hot(history.ring_keys, history.ring_values, page)
    middle = cold // 2
    split.cold(ColdPart(history.table, 0, 0, middle), history.page, history.codec)
    split.cold(ColdPart(history.table, middle, middle), history.page, history.codec)
    expected = attend(
        query.double(),
        history.keys.double(),
        history.values.double(),
        scale=0.3,
        mask=seen[..., :tokens],
    )
    error = torch.linalg.vector_norm(split.merged().double() - expected)
    assert error <= NOISE[dtype] * torch.linalg.vector_norm(expected), (case, codec, dtype, error)


def check_writing() -> None:
    """One token of each sequence goes to its slot, and nowhere else."""
    keys, values = torch.zeros(2, 3, 8, 5), torch.zeros(2, 3, 8, 4)
    new_keys, new_values = torch.randn(2, 1, 3, 5).transpose(1, 2), torch.randn(2, 3, 1, 4)
    write_token(new_keys, new_values, keys, values, torch.tensor([13]))
    expected_keys, expected_values = torch.zeros_like(keys), torch.zeros_like(values)
    expected_keys[:, :, 5], expected_values[:, :, 5] = new_keys[:, :, 0], new_values[:, :, 0]
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)


if __name__ == "__main__":
    torch.manual_seed(0)
    for case, codec in itertools.product(CASES, ("full", "int8", "int4")):
        check(case, codec, torch.float32, None)
    for codec in ("full", "int4"):
        check(CASES[3], codec, torch.float16, None)
        check(CASES[1], codec, torch.float32, 30)
    check_writing()
    print("right")
