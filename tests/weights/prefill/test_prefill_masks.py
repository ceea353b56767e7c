from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from ollm_widgets.weights.prefill.causal_rows import CausalRows
from ollm_widgets.weights.prefill.masks import CausalMasks, SeenOutside

CPU = torch.device("cpu")


def seen(rows: int, columns: int, visible: int) -> torch.Tensor:
    """What the rows of a chunk see, written out."""
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None]
    return (column <= visible - rows + row)[None, None]


@given(st.data())
@settings(deadline=None)
def test_every_chunk_of_a_prompt_gets_its_own_causal_mask(data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 40))
    rows = data.draw(st.integers(1, length - 1))
    static = data.draw(st.booleans())
    reach = length + data.draw(st.integers(0, 20)) if static else length
    masks = CausalMasks()

    for _layer in range(2):
        for start in range(rows, length, rows):
            end = min(start + rows, length)
            columns = reach if static else end
            mask = masks.of(end - start, columns, end, reach=reach, device=CPU)
            expected = seen(end - start, columns, end)
            assert expected.all() if mask is None else mask.equal(expected)


def test_masks_of_a_longer_prompt_follow_those_of_a_shorter() -> None:
    masks = CausalMasks()

    for rows, visible in ((4, 8), (4, 80), (16, 90), (3, 7)):
        mask = masks.of(rows, visible, visible, reach=visible, device=CPU)
        assert mask is not None
        assert mask.equal(seen(rows, visible, visible))


def test_layers_share_the_memory_of_their_masks() -> None:
    masks = CausalMasks()

    first = masks.of(4, 8, 8, reach=12, device=CPU)
    later = masks.of(4, 12, 12, reach=12, device=CPU)
    again = masks.of(4, 8, 8, reach=12, device=CPU)

    assert first is not None
    assert later is not None
    assert again is not None
    assert first.untyped_storage().data_ptr() == later.untyped_storage().data_ptr()
    assert first.data_ptr() == again.data_ptr()


@pytest.mark.parametrize(("rows", "columns", "visible"), [(3, 7, 7), (3, 12, 7), (7, 7, 7)])
def test_causal_rows_are_a_mask_like_any_other(rows: int, columns: int, visible: int) -> None:
    mask = CausalRows.of(rows, columns, visible, CPU)
    expected = seen(rows, columns, visible)

    assert mask.shape == expected.shape
    assert mask.dtype == torch.bool
    assert mask.ndim == 4
    assert mask[:, :, 1:, :5].equal(expected[:, :, 1:, :5])
    assert torch.where(mask, 0.0, -1.0).equal(torch.where(expected, 0.0, -1.0))
    assert torch.cat([mask, mask]).equal(torch.cat([expected, expected]))
    assert not mask.attended


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("rows", "columns", "visible"), [(3, 7, 7), (3, 12, 7), (1, 9, 7)])
def test_attention_by_causal_rows_is_that_of_the_mask(
    rows: int, columns: int, visible: int, groups: int
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, rows, 8)
    key, value = torch.randn(2, 2, 4 // groups, columns, 8)
    mask = CausalRows.of(rows, columns, visible, CPU)

    found = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)

    repeated = [states.repeat_interleave(groups, 1) for states in (key, value)]
    expected = scaled_dot_product_attention(
        query, *repeated, attn_mask=seen(rows, columns, visible), scale=0.3
    )
    assert torch.allclose(found, expected, atol=1e-6)
    assert mask.attended


@given(st.data())
@settings(deadline=None)
def test_what_is_seen_outside_the_chunks_is_noticed(data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 12))
    rows = data.draw(st.integers(1, length))
    row = data.draw(st.integers(0, length - 1))
    column = data.draw(st.integers(0, length - 1))
    additive = data.draw(st.booleans())
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[row, column] = True
    if additive:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    ends = [min(start + rows, length) for start in range(0, length, rows)]
    spans = tuple(zip(range(0, length, rows), ends, [0] * len(ends), ends, strict=True))

    found = SeenOutside().any(mask[None, None], spans)

    assert found == (column >= ends[row // rows])


def test_keys_that_a_window_drops_are_outside() -> None:
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()

    assert not SeenOutside().any(mask, ((0, 3, 0, 3), (3, 6, 0, 6)))
    assert SeenOutside().any(mask, ((0, 3, 0, 3), (3, 6, 1, 6)))


def test_a_mask_is_looked_at_once() -> None:
    known = SeenOutside()
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    spans = ((0, 1, 0, 1), (1, 2, 0, 2))
    known.any(mask, spans)

    mask[0, 0, 0, 1] = True

    assert not known.any(mask, spans)
    known.clear()
    assert known.any(mask, spans)
