"""Projections that share an input run as one product, and only where that is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ollm_widgets.weights.steps.joined import joined, observed_siblings


class Block(nn.Module):
    """Three projections of the input and one of their sum, as in attention."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, 4, bias=False)
        self.value = nn.Linear(width, 4, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        key, value = self.key(hidden), self.value(hidden)
        return self.out(self.query(hidden) + torch.cat((key, value), dim=-1))


def side_by_side(block: Block, order: tuple[str, ...]) -> None:
    """Give the projections one buffer, as an engine's layer has."""
    weights = [getattr(block, name).weight for name in order]
    buffer = torch.cat([weight.detach().reshape(-1) for weight in weights])
    start = 0
    for name, weight in zip(order, weights, strict=True):
        view = buffer[start : start + weight.numel()].view(weight.shape)
        getattr(block, name).weight = nn.Parameter(view, requires_grad=False)
        start += weight.numel()


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


HIDDEN = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_projections_of_one_input_in_the_order_of_their_weights_are_one_product(
    block: Block,
) -> None:
    side_by_side(block, ("key", "value", "query", "out"))
    with observed_siblings(block) as groups:
        wanted = block(HIDDEN)
    assert groups == [(block.key, block.value, block.query)]
    with joined(groups) as count:
        assert count == 1
        torch.testing.assert_close(block(HIDDEN), wanted)
        other = HIDDEN + 1
        got = block(other)
    torch.testing.assert_close(got, block(other))
    assert "forward" not in vars(block.key)


@torch.inference_mode()
@pytest.mark.parametrize("order", [("query", "key", "value", "out"), ("value", "key", "query")])
def test_weights_in_another_order_are_left_alone(block: Block, order: tuple[str, ...]) -> None:
    side_by_side(block, order)
    with observed_siblings(block) as groups:
        block(HIDDEN)
    with joined(groups) as count:
        assert count == 0


@torch.inference_mode()
def test_weights_in_buffers_of_their_own_are_left_alone(block: Block) -> None:
    with observed_siblings(block) as groups:
        block(HIDDEN)
    with joined(groups) as count:
        assert count == 0


@torch.inference_mode()
def test_a_member_that_is_called_with_something_else_computes_it_itself(block: Block) -> None:
    side_by_side(block, ("key", "value", "query", "out"))
    with observed_siblings(block) as groups:
        block(HIDDEN)
    other = HIDDEN * 2
    wanted = block.value(other)
    with joined(groups):
        block.key(HIDDEN)
        torch.testing.assert_close(block.value(other), wanted)
        torch.testing.assert_close(block.query(other), other @ block.query.weight.T)
