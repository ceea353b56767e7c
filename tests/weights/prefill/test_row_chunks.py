from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ollm_widgets.weights.prefill.row_chunks import RowChunkedMLP, row_chunks

SIZES = st.integers(1, 12)


class Recorder:
    """A feed-forward part that keeps the lengths it was called with."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4).double()
        self.lengths: list[int] = []

    def plain(self, hidden: torch.Tensor) -> torch.Tensor:
        self.lengths.append(hidden.shape[1])
        return self.linear(hidden).relu()

    def routed(self, hidden: torch.Tensor) -> Any:
        """As a mixture of experts answers: also the router's logits, tokens in one row."""
        out = self.plain(hidden)
        return out, out.view(-1, 4)[:, :3], None

    def summed(self, hidden: torch.Tensor) -> torch.Tensor:
        self.lengths.append(hidden.shape[1])
        return hidden.sum((0, 1))


@given(st.integers(0, 200), st.integers(1, 50))
def test_chunks_cover_every_token_once_and_in_order(length: int, rows: int) -> None:
    spans = row_chunks(length, rows)

    assert [token for span in spans for token in range(*span)] == list(range(length))
    assert all(0 < end - start <= rows for start, end in spans)


@given(SIZES, SIZES, SIZES)
@settings(deadline=None)
@torch.inference_mode()
def test_chunks_give_what_the_whole_gives(batch: int, length: int, rows: int) -> None:
    recorder = Recorder()
    hidden = torch.randn(batch, length, 4, dtype=torch.float64)
    whole, logits, _ = recorder.routed(hidden)
    recorder.lengths.clear()

    out, chunked_logits, nothing = RowChunkedMLP(recorder.routed, rows)(hidden)

    assert torch.allclose(out, whole)
    assert torch.allclose(chunked_logits, logits)
    assert nothing is None
    assert max(recorder.lengths) <= rows
    assert torch.allclose(RowChunkedMLP(recorder.plain, rows)(hidden), whole)


@torch.inference_mode()
def test_an_output_that_is_not_one_of_each_token_is_left_to_the_whole() -> None:
    recorder = Recorder()
    hidden = torch.randn(2, 10, 4, dtype=torch.float64)

    assert torch.allclose(RowChunkedMLP(recorder.summed, 3)(hidden), hidden.sum((0, 1)))
    assert recorder.lengths == [3, 10]


def test_a_gradient_is_not_cut() -> None:
    recorder = Recorder()
    hidden = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)

    RowChunkedMLP(recorder.plain, 3)(hidden).sum().backward()

    assert recorder.lengths == [10]
    assert hidden.grad is not None


@torch.inference_mode()
def test_a_second_tensor_is_not_cut() -> None:
    lengths: list[int] = []

    def add(hidden: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        lengths.append(hidden.shape[1])
        return hidden + other

    hidden = torch.randn(2, 10, 4)

    assert RowChunkedMLP(add, 3)(hidden, hidden).equal(hidden + hidden)
    assert lengths == [10]
