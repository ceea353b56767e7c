"""What would end a capture is refused before it happens; a CPU stands for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ollm_widgets.weights.steps.waiting import CannotCapture, NoWaiting, NumbersOnDevice

ROW = torch.arange(6.0)
Call = Callable[[], object]

WAITING: dict[str, Call] = {
    "item": lambda: ROW.sum().item(),
    "float": lambda: float(ROW[0]),
    "bool": lambda: bool(ROW.sum() > 3),
    "nonzero": ROW.nonzero,
    "where": lambda: torch.where(ROW > 2),
    "argwhere": lambda: torch.argwhere(ROW > 2),
    "mask": lambda: ROW[ROW > 2],
    "assigning by mask": lambda: ROW.clone().index_put_((ROW > 2,), ROW[:3]),
    "unique": ROW.unique,
    "equal": lambda: torch.equal(ROW, ROW + 1),
    "allclose": lambda: torch.allclose(ROW, ROW + 1),
    "repeating": lambda: ROW.repeat_interleave(torch.ones(6, dtype=torch.long)),
    "numbers": lambda: torch.tensor([1.0, 2.0]),
    "away": lambda: ROW.to("meta"),
}

FINE: dict[str, Call] = {
    "arithmetic": lambda: (ROW @ ROW.view(6, 1)).softmax(-1),
    "index": lambda: ROW[torch.arange(2).clone()],
    "masked fill": lambda: ROW.masked_fill(ROW > 2, 0.0),
    "where": lambda: torch.where(ROW > 2, ROW, 0.0),
    "repeating": lambda: ROW.repeat_interleave(3),
    "number": lambda: torch.tensor(0.0, device="cpu", dtype=torch.float64) + ROW,
    "attention": lambda: torch.nn.functional.scaled_dot_product_attention(
        *torch.ones(3, 1, 2, 4, 8).unbind()
    ),
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("call", WAITING.values(), ids=WAITING)
def test_what_waits_for_the_device_is_refused(call: Call, inference: bool) -> None:
    with torch.inference_mode(inference), NoWaiting(ROW.device), pytest.raises(CannotCapture):
        call()


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("call", FINE.values(), ids=FINE)
def test_what_does_not_wait_is_done(call: Call, inference: bool) -> None:
    with torch.inference_mode(inference):
        with NoWaiting(ROW.device), NumbersOnDevice():
            result = call()
        expected = call()
    assert isinstance(result, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(result, expected)
    assert result.dtype is expected.dtype


def test_another_device_may_be_waited_for() -> None:
    with NoWaiting(torch.device("cuda")):
        assert ROW.sum().item() == 15
